//! Measures bulk session bytes through a link beside bare TLS with the same settings, on loopback:
//! `cargo run --release -p link --example throughput`.
#![allow(clippy::print_stdout, reason = "a program for a person to read")]

use std::sync::Arc;
use std::time::Duration;

use link::{Acceptor, connect};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wire::identity::{DeviceKey, FleetCa, FleetRoots, Role, device_client_config, server_config};

const BYTES: usize = 1 << 30;
const PIECE_BYTES: usize = 16 * 1024;
const TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    // Both ends on one thread: what is compared is the work, not the number of cores.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> anyhow::Result<()> {
    let ca = FleetCa::create()?;
    let (certificate, key) = ca.issue(&[Role::Proxy], "measured")?;
    let ca_pem = ca.certificate_pem();
    let server = server_config(&ca_pem, &certificate, key.expose())?;
    let client = device_client_config(&ca_pem, &DeviceKey::generate()?)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;

    let acceptor = TlsAcceptor::from(Arc::clone(&server));
    let near = async {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        TlsConnector::from(Arc::clone(&client)).connect(Role::Proxy.server_name(), socket).await
    };
    let far = async { acceptor.accept(listener.accept().await?.0).await };
    let (near, far) = tokio::join!(near, far);
    carry("bare TLS", near?, far?).await?;

    let acceptor = Acceptor::new(server, FleetRoots::from_pem(&ca_pem)?);
    let near = connect(address, Role::Proxy, client, TIMEOUT);
    let far = async { anyhow::Ok(acceptor.accept(listener.accept().await?.0, TIMEOUT).await?) };
    let (near, far) = tokio::join!(near, far);
    carry("link", near?.into_session(), far?.into_session()).await
}

async fn carry<W, R>(name: &str, mut near: W, mut far: R) -> anyhow::Result<()>
where
    W: AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    let start = Instant::now();
    let piece = vec![0x5a; PIECE_BYTES];
    let write = async {
        for _ in 0..BYTES / PIECE_BYTES {
            near.write_all(&piece).await?;
        }
        near.shutdown().await
    };
    let read = async {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut bytes = 0;
        while bytes < BYTES {
            bytes += far.read(&mut buffer).await?;
        }
        std::io::Result::Ok(())
    };
    tokio::try_join!(write, read)?;
    let seconds = start.elapsed().as_secs_f64();
    let gigabits = (BYTES * 8 / 1_000_000) as f64 / 1e3 / seconds;
    println!("{name:>10}: {gigabits:.2} Gbit/s, both ends on one core");
    Ok(())
}
