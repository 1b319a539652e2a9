//! Asking the router to forward the ports that this node listens on (UPnP, Internet Gateway Device).
//!
//! Whoever is on the local network may answer in the router's place, so answers are a stranger's bytes: taken only from
//! the host that was heard, in bounded length and time, and searched for the few words that matter. The client that libp2p
//! brings reads answers without an end and follows their nesting as deep as it goes.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc::WeakSender;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::address::{is_global, is_relayed};
use super::handle::Shared;
use super::peers::Router;
use super::swarm::Act;
use crate::base::limit;

/// Where routers listen for questions.
const EVERYONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
const QUESTION: &str = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 2\r\nST: \
                        urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
/// How long answers are waited for, and how long one exchange with a router may take.
const SEARCH: Duration = Duration::from_secs(5);
const EXCHANGE: Duration = Duration::from_secs(5);
/// Hosts that are asked whether they are the router, and an answer of one in bytes.
const ANSWERS_MAX: usize = 8;
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Networks that this machine is on of which routers are looked for.
const PLACES_MAX: usize = 4;
/// The error of a router that knows no leases.
const NO_LEASES: u16 = 725;
/// Services that forward ports, the best first.
const SERVICES: [&str; 3] = ["WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1"];

/// A port that this node listens on, at an address of the local network.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    place: Ipv4Addr,
    number: u16,
    udp: bool,
}

impl Port {
    fn of(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let Some(Protocol::Ip4(place)) = parts.next().filter(|_| !is_relayed(address)) else { return None };
        match parts.next()? {
            Protocol::Tcp(number) => Some(Self { place, number, udp: false }),
            Protocol::Udp(number) => Some(Self { place, number, udp: true }),
            _ => None,
        }
        .filter(|port| port.place.is_private())
    }

    /// Where it is reached from outside.
    fn outside(self, ip: Ipv4Addr) -> Multiaddr {
        let address = Multiaddr::empty().with(Protocol::Ip4(ip));
        match self.udp {
            false => address.with(Protocol::Tcp(self.number)),
            true => address.with(Protocol::Udp(self.number)).with(Protocol::QuicV1),
        }
    }
}

/// Has ports forwarded as long as the network runs.
pub(super) async fn run(shared: Arc<Shared>, acts: WeakSender<Act>) {
    // Addresses come one by one when a node starts.
    sleep(limit::LOCAL_REST).await;
    loop {
        let ports: BTreeSet<Port> = shared.table().listening.iter().filter_map(Port::of).collect();
        let state = look(&ports).await;
        let rest = match state {
            Router::Forwards(_) => limit::ROUTER_LEASE / 2,
            _ => limit::ROUTER_REST,
        };
        let Some(acts) = acts.upgrade() else { return };
        if acts.send(Box::new(move |node| node.on_router(state))).await.is_err() {
            return;
        }
        drop(acts);
        tokio::select! {
            () = sleep(rest) => {}
            () = shared.moved.notified() => sleep(limit::LOCAL_REST).await,
        }
    }
}

async fn look(ports: &BTreeSet<Port>) -> Router<Multiaddr> {
    let places: BTreeSet<Ipv4Addr> = ports.iter().map(|port| port.place).collect();
    let mut state = Router::Silent;
    for place in places.into_iter().take(PLACES_MAX) {
        let Ok(Ok(gateway)) = timeout(SEARCH, Gateway::search(place)).await else { continue };
        let Ok(ip) = gateway.external_ip().await else { continue };
        if !is_global(ip.into()) {
            state = Router::Hidden;
            continue;
        }
        let mut forwarded = Vec::new();
        for port in ports.iter().filter(|port| port.place == place).take(limit::OUTSIDE_ADDRESSES_MAX) {
            match gateway.forward(*port).await {
                Ok(()) => forwarded.push(port.outside(ip)),
                Err(error) => debug!(target: "net", ?port, %error, "the router does not forward a port"),
            }
        }
        return if forwarded.is_empty() { Router::Refuses } else { Router::Forwards(forwarded) };
    }
    state
}

/// What answered as a router does.
#[derive(Debug, PartialEq, Eq)]
struct Gateway {
    at: SocketAddr,
    service: String,
    control: String,
}

impl Gateway {
    /// Asks on the network of `place`, until one answers that forwards ports.
    async fn search(place: Ipv4Addr) -> io::Result<Self> {
        let socket = UdpSocket::bind((place, 0)).await?;
        socket.send_to(QUESTION.as_bytes(), EVERYONE).await?;
        let mut buffer = [0; 1500];
        for _ in 0..ANSWERS_MAX {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            let answer = String::from_utf8_lossy(&buffer[..length]);
            let Some((at, path)) = location(&answer, from.ip()) else { continue };
            let Ok(description) = exchange(at, &format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n")).await
            else {
                continue;
            };
            if let Some((service, control)) = control(&description) {
                return Ok(Self { at, service, control });
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    async fn external_ip(&self) -> io::Result<Ipv4Addr> {
        let answer = self.call("GetExternalIPAddress", "").await?;
        let ip = between(&answer, "<NewExternalIPAddress>", "</").and_then(|text| text.trim().parse().ok());
        ip.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    async fn forward(&self, port: Port) -> io::Result<()> {
        let (number, place) = (port.number, port.place);
        let protocol = if port.udp { "UDP" } else { "TCP" };
        let wish = |seconds: u64| {
            format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{number}</NewExternalPort><NewProtocol>{protocol}\
                 </NewProtocol><NewInternalPort>{number}</NewInternalPort><NewInternalClient>{place}\
                 </NewInternalClient><NewEnabled>1</NewEnabled><NewPortMappingDescription>shadowvault\
                 </NewPortMappingDescription><NewLeaseDuration>{seconds}</NewLeaseDuration>"
            )
        };
        let leased = self.call("AddPortMapping", &wish(limit::ROUTER_LEASE.as_secs())).await;
        match leased {
            // Some know no leases: forwarded until somebody takes it back.
            Err(error) if error.to_string() == refusal(NO_LEASES) => {
                self.call("AddPortMapping", &wish(0)).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn call(&self, action: &str, arguments: &str) -> io::Result<String> {
        let Self { at, service, control } = self;
        let service = format!("urn:schemas-upnp-org:service:{service}");
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{service}\">\
             {arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        let head = format!(
            "POST {control} HTTP/1.0\r\nHost: {at}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \
             \"{service}#{action}\"\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        exchange(*at, &(head + &body)).await
    }
}

/// One request and its whole answer.
async fn exchange(at: SocketAddr, request: &str) -> io::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        good(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(EXCHANGE, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// An answer that is "200"; of any other the error tells the number, and no word of a stranger's.
fn good(answer: String) -> io::Result<String> {
    let status = answer.lines().next().and_then(|line| line.split(' ').nth(1));
    if status == Some("200") {
        return Ok(answer);
    }
    let number = between(&answer, "<errorCode>", "<").or(status).and_then(|text| text.trim().parse().ok());
    Err(io::Error::other(refusal(number.unwrap_or_default())))
}

/// What is said of an answer with an error's number.
fn refusal(number: u16) -> String {
    format!("refused with {number}")
}

/// Where a host that answered describes itself: at its own address, on the local network.
fn location(answer: &str, from: IpAddr) -> Option<(SocketAddr, String)> {
    let IpAddr::V4(from) = from else { return None };
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("location:"))?;
    let url = line["location:".len()..].trim();
    let (authority, path) = split_url(url)?;
    let at: SocketAddrV4 = if authority.contains(':') {
        authority.parse().ok()?
    } else {
        SocketAddrV4::new(authority.parse().ok()?, 80)
    };
    (from.is_private() && *at.ip() == from).then(|| (at.into(), path))
}

/// Authority and path of an http URL; nothing in them can end a line of a request.
fn split_url(url: &str) -> Option<(&str, String)> {
    let rest = url.strip_prefix("http://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let path = if end == rest.len() { "/" } else { &rest[end..] };
    is_path(path).then(|| (&rest[..end], path.to_owned()))
}

fn is_path(text: &str) -> bool {
    text.len() <= 512 && text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic())
}

/// The service that forwards ports, and the path where it takes orders.
fn control(description: &str) -> Option<(String, String)> {
    SERVICES.iter().find_map(|service| {
        let start = description.find(&format!("urn:schemas-upnp-org:service:{service}<"))?;
        let rest = &description[start..];
        let rest = &rest[..rest.find("</service>").unwrap_or(rest.len())];
        let url = between(rest, "<controlURL>", "</")?.trim();
        let path = match split_url(url) {
            Some((_, path)) => path,
            None if url.starts_with('/') => url.to_owned(),
            None => format!("/{url}"),
        };
        is_path(&path).then(|| ((*service).to_owned(), path))
    })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    Some(&rest[..rest.find(after)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_taken_at_its_own_local_address_only() {
        let from: IpAddr = "192.168.1.1".parse().unwrap();
        let table = [
            ("LOCATION: http://192.168.1.1:5000/root.xml", Some("192.168.1.1:5000 /root.xml")),
            ("Location:http://192.168.1.1", Some("192.168.1.1:80 /")),
            // It points at somebody else, or says nothing.
            ("LOCATION: http://192.168.1.2:5000/root.xml", None),
            ("LOCATION: http://router.example/root.xml", None),
            ("LOCATION: http://192.168.1.1:5000/a b", None),
            ("LOCATION: https://192.168.1.1/", None),
            ("SERVER: x", None),
        ];
        for (line, expected) in table {
            let found = location(&format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n"), from);
            let found = found.map(|(at, path)| format!("{at} {path}"));
            assert_eq!(found.as_deref(), expected, "{line}");
        }
        assert_eq!(location("LOCATION: http://9.9.9.9/", "9.9.9.9".parse().unwrap()), None);
    }

    #[test]
    fn the_service_that_forwards_ports_is_found_whatever_stands_around_it() {
        let service = |kind: &str, url: &str| {
            format!(
                "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>{url}</controlURL></service>"
            )
        };
        let other = service("Layer3Forwarding:1", "/l3");
        let table = [
            (
                other.clone() + &service("WANIPConnection:1", "/ctl/IPConn"),
                Some(("WANIPConnection:1", "/ctl/IPConn")),
            ),
            (
                service("WANPPPConnection:1", "ctl") + &service("WANIPConnection:2", "http://10.0.0.1:1/c"),
                Some(("WANIPConnection:2", "/c")),
            ),
            (service("WANPPPConnection:1", "ctl"), Some(("WANPPPConnection:1", "/ctl"))),
            (service("WANIPConnection:1", "/x\r\nHost: y"), None),
            (other, None),
            ("<a>".repeat(1 << 20), None),
        ];
        for (text, expected) in table {
            let found = control(&text);
            assert_eq!(found.as_ref().map(|(a, b)| (a.as_str(), b.as_str())), expected);
        }
    }

    #[test]
    fn a_refusal_is_told_by_its_number_alone() {
        let table = [
            ("HTTP/1.1 500 X\r\n\r\n<errorCode>725</errorCode>\x1b[2J", Some(refusal(NO_LEASES))),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Some(refusal(404))),
            ("HTTP/1.1 500 X\r\n\r\n<errorCode>much</errorCode>", Some(refusal(0))),
            ("", Some(refusal(0))),
            ("HTTP/1.1 200 OK\r\n\r\n", None),
        ];
        for (answer, expected) in table {
            assert_eq!(good(answer.to_owned()).err().map(|error| error.to_string()), expected, "{answer:?}");
        }
    }

    #[test]
    fn only_ports_on_local_networks_are_forwarded() {
        let table = [
            ("/ip4/192.168.1.5/tcp/9000", Some("/ip4/9.9.9.9/tcp/9000")),
            ("/ip4/10.0.0.5/udp/9000/quic-v1", Some("/ip4/9.9.9.9/udp/9000/quic-v1")),
            ("/ip4/127.0.0.1/tcp/9000", None),
            ("/ip4/8.8.8.8/tcp/9000", None),
            ("/ip6/fd00::1/tcp/9000", None),
            (
                "/ip4/10.0.0.1/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit",
                None,
            ),
        ];
        for (address, expected) in table {
            let port = Port::of(&address.parse().unwrap());
            let outside = port.map(|port| port.outside([9, 9, 9, 9].into()).to_string());
            assert_eq!(outside.as_deref(), expected, "{address}");
        }
    }
}
