"""A router that forwards ports when asked over UPnP, as far as a test needs one: it says what it was asked and does nothing.

usage: fake_router.py ADDRESS EXTERNAL_ADDRESS     (writes a line for each port to stdout, until it is killed)
"""
import http.server
import re
import socket
import struct
import sys
import threading

address, external = sys.argv[1:]
PORT = 5000
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceList><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType><controlURL>/other</controlURL></service>
<service><serviceType>{SERVICE}</serviceType><SCPDURL>/scpd.xml</SCPDURL><controlURL>/control</controlURL></service>
</serviceList></device></deviceList></device></root>"""


class Web(http.server.BaseHTTPRequestHandler):
    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(DESCRIPTION)

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = re.search(r"<u:(\w+)", asked).group(1)
        value = ""
        if action == "GetExternalIPAddress":
            value = f"<NewExternalIPAddress>{external}</NewExternalIPAddress>"
        elif action == "AddPortMapping":
            words = [re.search(f"<{name}>([^<]*)<", asked).group(1) for name in
                     ("NewProtocol", "NewExternalPort", "NewInternalClient", "NewInternalPort")]
            print(*words, flush=True)
        self.answer('<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
                    f'<u:{action}Response xmlns:u="{SERVICE}">{value}</u:{action}Response></s:Body></s:Envelope>')

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((address, PORT), Web)
threading.Thread(target=server.serve_forever, daemon=True).start()
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
heard.bind(("", 1900))
group = struct.pack("4s4s", socket.inet_aton("239.255.255.250"), socket.inet_aton(address))
heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
print("ready", flush=True)
while True:
    question, asker = heard.recvfrom(2000)
    if question.startswith(b"M-SEARCH"):
        lines = ["HTTP/1.1 200 OK", f"LOCATION: http://{address}:{PORT}/root.xml", f"ST: {SERVICE}", "", ""]
        heard.sendto("\r\n".join(lines).encode(), asker)
