//! What two bare libp2p nodes move between them: 1 MiB answers to small requests, eight in flight, over TCP (Noise, yamux) on
//! loopback, in one process. The raw rate that `benches/mesh.py` holds a holder's pull against.
//!
//! Prints one number: bytes a second.

use std::io;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, StreamProtocol, Swarm, noise, tcp, yamux};

const ANSWER_BYTES: usize = 1 << 20;
const IN_FLIGHT: u64 = 8;
const ANSWERS: u64 = 2048;

#[derive(Clone, Default)]
struct Raw;

async fn read_all(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_all(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_all(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response).await
    }
}

type Behaviour = request_response::Behaviour<Raw>;

fn node() -> Swarm<Behaviour> {
    let protocol = (StreamProtocol::new("/raw/1"), ProtocolSupport::Full);
    libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .expect("TCP")
        .with_behaviour(|_| Behaviour::new([protocol], request_response::Config::default()))
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// Answers every request with the same bytes.
async fn serve(mut swarm: Swarm<Behaviour>) {
    let answer = vec![7; ANSWER_BYTES];
    loop {
        if let SwarmEvent::Behaviour(request_response::Event::Message {
            message: Message::Request { channel, .. },
            ..
        }) = swarm.select_next_some().await
        {
            let _ = swarm.behaviour_mut().send_response(channel, answer.clone());
        }
    }
}

async fn listen(swarm: &mut Swarm<Behaviour>) -> Multiaddr {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("a listener");
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

async fn measure() -> f64 {
    let (mut server, mut client) = (node(), node());
    let peer = *server.local_peer_id();
    client.dial(listen(&mut server).await).expect("dialling");
    tokio::spawn(serve(server));
    let (mut asked, mut answered) = (0, 0);
    let mut began = Instant::now();
    loop {
        match client.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => {
                began = Instant::now();
                while asked < IN_FLIGHT {
                    client.behaviour_mut().send_request(&peer, vec![1; 32]);
                    asked += 1;
                }
            }
            SwarmEvent::Behaviour(request_response::Event::Message {
                message: Message::Response { response, .. },
                ..
            }) => {
                assert_eq!(response.len(), ANSWER_BYTES);
                answered += 1;
                if answered == ANSWERS {
                    return (ANSWERS * ANSWER_BYTES as u64) as f64 / began.elapsed().as_secs_f64();
                }
                if asked < ANSWERS {
                    client.behaviour_mut().send_request(&peer, vec![1; 32]);
                    asked += 1;
                }
            }
            SwarmEvent::Behaviour(request_response::Event::OutboundFailure { error, .. }) => {
                panic!("{error}")
            }
            _ => {}
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{:.0}", runtime.block_on(async { tokio::spawn(measure()).await.expect("no panic") }));
}
