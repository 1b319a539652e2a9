//! A port whose places are all taken.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Clients, Port, Site};
use crate::base::limit;
use crate::config::Settings;

async fn health(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A thousand clients that said nothing shut the port for all others, and the health probe failed.
#[tokio::test]
async fn silent_clients_keep_nobody_out_who_asks() {
    let security = Settings::default().security;
    let port = Port::bind("127.0.0.1:0".parse().unwrap(), "health").await.unwrap();
    let address = port.address;
    let (stop, stopped) = oneshot::channel::<()>();
    let site = Site::Health(Arc::new(OnceLock::new()));
    let serving = tokio::spawn(port.serve(site, Arc::new(Clients::new(&security)), async {
        stopped.await.ok();
    }));
    let mut silent = Vec::new();
    for n in 0..4 * limit::HTTP_CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 2 == 0 {
            // Half of a request's head; one that was closed already does not matter.
            stream.write_all(b"GET /live HTTP/1.1\r\n").await.ok();
        }
        silent.push(stream);
    }
    for _ in 0..10 {
        let answer = health(address).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
    drop(stop);
    serving.await.unwrap();
}
