//! Real sockets on loopback, real TLS.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client};
use wire::frame::{self, DecodeError};
use wire::identity::{
    DeviceKey, FleetCa, FleetRoots, Peer, Role, device_client_config, server_client_config,
    server_config,
};
use wire::{Busy, Bye, LeaseId, Message, Poll as PollMessage, SessionId, VERSION};

use crate::*;

/// Of a `Ping` or `Pong` with the largest number.
const FRAME_BYTES: usize = frame::HEADER_BYTES + 10;
const TIMEOUT: Duration = Duration::from_secs(20);

struct Fleet {
    ca: FleetCa,
    acceptor: Acceptor,
    listener: TcpListener,
    device: DeviceKey,
}

impl Fleet {
    async fn new() -> Self {
        let ca = FleetCa::create().unwrap();
        let (certificate, key) = ca.issue(&[Role::Proxy], "tokyo-1").unwrap();
        let ca_pem = ca.certificate_pem();
        let config = server_config(&ca_pem, &certificate, key.expose()).unwrap();
        let acceptor = Acceptor::new(config, FleetRoots::from_pem(&ca_pem).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { ca, acceptor, listener, device: DeviceKey::generate().unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn device_config(&self) -> Arc<ClientConfig> {
        device_client_config(&self.ca.certificate_pem(), &self.device).unwrap()
    }

    async fn accept(&self) -> Result<Link, LinkError> {
        let (socket, _) = self.listener.accept().await.unwrap();
        self.acceptor.accept(socket, TIMEOUT).await
    }

    async fn connect(&self, config: Arc<ClientConfig>, role: Role) -> Result<Link, LinkError> {
        connect(self.address(), role, config, TIMEOUT).await
    }

    async fn both(
        &self,
        config: Arc<ClientConfig>,
        role: Role,
    ) -> (Result<Link, LinkError>, Result<Link, LinkError>) {
        tokio::join!(self.connect(config, role), self.accept())
    }

    /// A box and the server it reached.
    async fn links(&self) -> (Link, Link) {
        let (client, server) = self.both(self.device_config(), Role::Proxy).await;
        (client.unwrap(), server.unwrap())
    }

    async fn sessions(&self) -> (SessionStream, SessionStream) {
        let (client, server) = self.links().await;
        (client.into_session(), server.into_session())
    }

    /// A box that writes whatever it likes into a good TLS connection.
    async fn raw(&self) -> (client::TlsStream<TcpStream>, Link) {
        let connector = TlsConnector::from(self.device_config());
        let client = async {
            let socket = TcpStream::connect(self.address()).await.unwrap();
            connector.connect(Role::Proxy.server_name(), socket).await.unwrap()
        };
        let (client, server) = tokio::join!(client, self.accept());
        (client, server.unwrap())
    }
}

fn bye() -> Bye {
    Bye {
        session: SessionId([1; 16]),
        lease: LeaseId(2),
        bytes_up: 3,
        bytes_down: 4,
        messages: 5,
        infected: 0,
        unscannable: 0,
        opaque: false,
    }
}

/// Bytes without a pattern that a lost or doubled frame would keep.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(step).collect()
}

/// Polls once.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn reads_reset(stream: &mut SessionStream) -> Vec<u8> {
    let mut read = Vec::new();
    let error = stream.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    let again = stream.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::ConnectionReset, "{again}");
    read
}

#[tokio::test]
async fn both_sides_know_each_other_and_talk() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.links().await;
    let roles = vec![Role::Proxy];
    assert_eq!(*client.peer(), Peer::Server { roles, name: "tokyo-1".to_owned() });
    assert_eq!(*server.peer(), Peer::Device(fleet.device.fingerprint()));
    assert_eq!(client.peer_address(), fleet.address());
    assert!(server.peer_address().ip().is_loopback());

    let question = Message::Poll(PollMessage { sequence: 1 });
    client.send(&question).await.unwrap();
    assert_eq!(server.recv().await.unwrap(), question);
    let answer = Message::Busy(Busy { retry_after_ms: 1 });
    server.send(&answer).await.unwrap();
    assert_eq!(client.recv().await.unwrap(), answer);

    client.close().await.unwrap();
    assert!(matches!(server.recv().await, Err(LinkError::Closed)));
}

#[tokio::test]
async fn a_server_may_be_the_client() {
    let fleet = Fleet::new().await;
    let (certificate, key) = fleet.ca.issue(&[Role::Manager], "tokyo-2").unwrap();
    let ca_pem = fleet.ca.certificate_pem();
    let config = server_client_config(&ca_pem, &certificate, key.expose()).unwrap();
    let (_client, server) = fleet.both(config, Role::Proxy).await;
    assert!(server.unwrap().peer().is_server(Role::Manager));
}

#[tokio::test]
async fn a_server_of_another_fleet_is_refused() {
    let (ours, theirs) = (Fleet::new().await, Fleet::new().await);
    let (client, server) = theirs.both(ours.device_config(), Role::Proxy).await;
    let (client, server) = (client.unwrap_err(), server.unwrap_err());
    assert!(matches!(client, LinkError::Handshake { .. }), "{client}");
    assert_eq!((client.fault(), server.fault()), (Fault::Peer, Fault::Peer));
}

#[tokio::test]
async fn a_server_without_the_role_is_refused() {
    let fleet = Fleet::new().await;
    let (client, server) = fleet.both(fleet.device_config(), Role::Manager).await;
    let client = client.unwrap_err();
    let why = std::error::Error::source(&client).unwrap().to_string();
    assert!(why.contains("manager.avr.internal"), "{why}");
    assert!(server.is_err());
}

#[tokio::test]
async fn a_client_without_a_certificate_learns_that_it_is_refused() {
    let fleet = Fleet::new().await;
    let mut roots = rustls::RootCertStore::empty();
    let ca_pem = fleet.ca.certificate_pem();
    let ca = rustls::pki_types::CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    config.alpn_protocols = vec![wire::ALPN.to_vec()];
    let (client, server) = fleet.both(Arc::new(config), Role::Proxy).await;
    let server = server.unwrap_err();
    assert!(matches!(server, LinkError::Handshake { .. }) && server.fault() == Fault::Peer);
    let error = client.unwrap().recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_that_names_no_protocol_is_refused() {
    let fleet = Fleet::new().await;
    let mut config = ClientConfig::clone(&fleet.device_config());
    config.alpn_protocols.clear();
    let (_client, server) = fleet.both(Arc::new(config), Role::Proxy).await;
    assert!(matches!(server, Err(LinkError::Alpn)));
}

#[tokio::test]
async fn garbage_instead_of_tls_is_the_peers_fault() {
    let fleet = Fleet::new().await;
    let mut socket = TcpStream::connect(fleet.address()).await.unwrap();
    socket.write_all(b"EHLO there\r\n").await.unwrap();
    let error = fleet.accept().await.unwrap_err();
    assert!(matches!(error, LinkError::Handshake { .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::Peer);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_handshake_is_the_networks_fault() {
    let fleet = Fleet::new().await;
    drop(TcpStream::connect(fleet.address()).await.unwrap());
    let error = fleet.accept().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Network, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_in_the_handshake_is_dropped() {
    let fleet = Fleet::new().await;
    let _stalled = TcpStream::connect(fleet.address()).await.unwrap();
    let error = fleet.accept().await.unwrap_err();
    assert!(matches!(error, LinkError::HandshakeTimedOut { .. }), "{error:?}");
    assert!(error.is_timeout());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_in_the_handshake_is_given_up() {
    let fleet = Fleet::new().await;
    let error = fleet.connect(fleet.device_config(), Role::Proxy).await.unwrap_err();
    assert!(matches!(error, LinkError::HandshakeTimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let Fleet { listener, ca, device, .. } = Fleet::new().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = device_client_config(&ca.certificate_pem(), &device).unwrap();
    let error = connect(address, Role::Proxy, config, TIMEOUT).await.unwrap_err();
    assert_eq!(error.to_string(), "the peer's host refused the TCP connection");
    assert_eq!(error.fault(), Fault::Network);
}

#[tokio::test]
async fn an_oversize_frame_is_refused_at_its_header() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.raw().await;
    client.write_all(&[VERSION, 1, 0, 0, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    let error = server.recv().await.unwrap_err();
    let LinkError::Protocol { source: DecodeError::TooLong { body_bytes, .. } } = error else {
        panic!("{error:?}")
    };
    assert_eq!(body_bytes, 0xffff_ffff);
}

#[tokio::test]
async fn another_version_is_named() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.raw().await;
    client.write_all(&[9; 8]).await.unwrap();
    let error = server.recv().await.unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "peer speaks frame version 9, this side 1");
}

#[tokio::test]
async fn an_unknown_kind_is_skipped() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.raw().await;
    let mut bytes = BytesMut::new();
    bytes.put_slice(&[VERSION, 222, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
    frame::encode(&Message::Fin, &mut bytes).unwrap();
    client.write_all(&bytes).await.unwrap();
    assert_eq!(server.recv().await.unwrap(), Message::Fin);
}

#[tokio::test]
async fn a_link_cut_within_a_message_is_not_closed_in_order() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.raw().await;
    client.write_all(&[VERSION, 1]).await.unwrap();
    client.shutdown().await.unwrap();
    assert!(matches!(server.recv().await, Err(LinkError::Cut { .. })));

    let (client, mut server) = fleet.raw().await;
    drop(client);
    assert!(matches!(server.recv().await, Err(LinkError::Cut { .. })));
}

#[tokio::test]
async fn a_recv_given_up_loses_nothing() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.raw().await;
    let (first, second) = (Message::Pong(1), Message::Busy(Busy { retry_after_ms: 70_000 }));
    let mut bytes = BytesMut::new();
    frame::encode(&first, &mut bytes).unwrap();
    frame::encode(&second, &mut bytes).unwrap();
    let rest = bytes.split_off(bytes.len() - 2);
    client.write_all(&bytes).await.unwrap();
    assert_eq!(server.recv().await.unwrap(), first);
    // The front of the second has come with the first.
    assert!(once(server.recv()).await.is_none());
    client.write_all(&rest).await.unwrap();
    assert_eq!(server.recv().await.unwrap(), second);
}

#[tokio::test]
async fn a_send_given_up_keeps_the_framing() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.links().await;
    let big = Message::Data(vec![7; wire::DATA_BYTES_MAX].into());
    // Until the socket is full and a send has to wait.
    let mut sent = 0;
    while once(client.send(&big)).await.is_some() {
        sent += 1;
    }
    let receiver = tokio::spawn(async move {
        let mut received = 0;
        while let Message::Data(bytes) = server.recv().await.unwrap() {
            assert_eq!(bytes.len(), wire::DATA_BYTES_MAX);
            received += 1;
        }
        received
    });
    client.send(&Message::Fin).await.unwrap();
    // What was given up may go out all the same, but whole.
    let received = receiver.await.unwrap();
    assert!(received == sent || received == sent + 1, "{received} of {sent}");
}

#[tokio::test]
async fn a_ping_is_answered_by_whoever_reads() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.links().await;
    let server = tokio::spawn(async move { server.recv().await.map(|_| ()) });
    client.send(&Message::Ping(77)).await.unwrap();
    assert_eq!(client.recv().await.unwrap(), Message::Pong(77));
    server.abort();
}

#[tokio::test]
async fn a_peer_that_asks_and_never_listens_is_not_waited_for_in_memory() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.raw().await;
    let mut pings = BytesMut::new();
    while pings.len() < 16 * 1024 {
        frame::encode(&Message::Ping(u64::MAX), &mut pings).unwrap();
    }
    // The client never reads a Pong. Sooner or later the server stops reading Pings: then the
    // client cannot write, however often the server is asked to go on.
    let mut sent = 0;
    let mut rounds_stuck = 0;
    while rounds_stuck < 1000 {
        match once(client.write(&pings)).await {
            // A write may end within a ping; the rest of it goes first.
            Some(written) => {
                let written = written.unwrap();
                sent += written;
                pings.advance(written);
                while pings.len() < 16 * 1024 {
                    frame::encode(&Message::Ping(u64::MAX), &mut pings).unwrap();
                }
                rounds_stuck = 0;
            }
            None => rounds_stuck += 1,
        }
        assert!(once(server.recv()).await.is_none());
        assert!(server.output_bytes() <= 2 * OUTPUT_BYTES_MAX + FRAME_BYTES, "{sent}");
        tokio::task::yield_now().await;
    }
    assert!(sent > OUTPUT_BYTES_MAX);
}

#[tokio::test]
async fn a_message_over_a_limit_is_not_sent_and_the_link_lives() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.links().await;
    let error = client.send(&Message::Data(bytes::Bytes::new())).await.unwrap_err();
    assert!(matches!(error, LinkError::Encode { .. }) && error.fault() == Fault::Ours);
    client.send(&Message::Fin).await.unwrap();
    assert_eq!(server.recv().await.unwrap(), Message::Fin);
}

#[tokio::test]
async fn megabytes_come_back_as_they_went() {
    let fleet = Fleet::new().await;
    let (client, mut server) = fleet.sessions().await;
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(&mut server);
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let sent = noise(5 << 20);
    let (mut reader, mut writer) = tokio::io::split(client);
    let to_send = sent.clone();
    let sender = tokio::spawn(async move {
        for piece in to_send.chunks(10_007) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    sender.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.sessions().await;
    client.write_all(b"QUIT\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    server.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"QUIT\r\n");
    let error = client.write_all(b"more").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

    server.write_all(b"221 bye\r\n").await.unwrap();
    server.shutdown().await.unwrap();
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"221 bye\r\n");
}

#[tokio::test]
async fn a_drop_is_a_reset_behind_what_was_written() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.sessions().await;
    client.write_all(b"half a comma").await.unwrap();
    drop(client);
    assert_eq!(reads_reset(&mut server).await, b"half a comma");

    let (mut client, mut server) = fleet.sessions().await;
    server.write_all(b"354 go").await.unwrap();
    drop(server);
    assert_eq!(reads_reset(&mut client).await, b"354 go");
}

#[tokio::test]
async fn an_end_without_fin_is_a_reset_even_when_tls_ends_in_order() {
    let fleet = Fleet::new().await;
    let (mut client, server) = fleet.raw().await;
    let mut bytes = BytesMut::new();
    frame::encode_data(b"hello", &mut bytes);
    client.write_all(&bytes).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(reads_reset(&mut server.into_session()).await, b"hello");
}

#[tokio::test]
async fn a_message_that_has_no_place_in_a_session_is_a_reset() {
    let fleet = Fleet::new().await;
    let (mut client, server) = fleet.links().await;
    client.send(&Message::Busy(Busy { retry_after_ms: 1 })).await.unwrap();
    let mut server = server.into_session();
    let error = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.to_string(), "the peer sent Busy where session bytes was expected");
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.sessions().await;
    let piece = noise(64 * 1024);
    let mut sent = 0;
    // Kernel buffers on loopback grow to a few megabytes; ours do not.
    while let Some(written) = once(client.write(&piece[sent % 1000..])).await {
        sent += written.unwrap();
        assert!(sent < 256 << 20, "no back-pressure");
    }
    // Nobody flushes: reading, as a relaying task does, is enough to get the rest out.
    let reader = tokio::spawn(async move {
        let mut received = vec![0; sent];
        server.read_exact(&mut received).await.unwrap();
        server.write_all(b"got it").await.unwrap();
        server
    });
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"got it");
    drop(reader.await.unwrap());
}

#[tokio::test]
async fn both_halves_of_a_split_stream_are_woken_for_room() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.sessions().await;
    while once(client.write(&[7; 64 * 1024])).await.is_some() {}
    let (mut reader, mut writer) = tokio::io::split(client);
    // The reader asks for room last, and then is gone: the writer must hear of it.
    let waiting = tokio::spawn(async move {
        writer.write_all(&[8; 1 << 20]).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    tokio::task::yield_now().await;
    assert!(once(reader.read(&mut [0; 8])).await.is_none());
    let mut read = Vec::new();
    server.read_to_end(&mut read).await.unwrap();
    assert!(read.ends_with(&[8; 1 << 20]));
    waiting.await.unwrap();
}

#[tokio::test]
async fn the_last_word_arrives() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.sessions().await;
    assert_eq!(server.take_bye(), None);
    client.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    let waiting = tokio::spawn(async move { server.recv_bye().await });
    client.finish(bye()).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Some(bye()));
}

#[tokio::test]
async fn the_last_word_of_a_broken_session_comes_with_its_reset() {
    let fleet = Fleet::new().await;
    let (client, mut server) = fleet.sessions().await;
    let waiting = tokio::spawn(async move {
        reads_reset(&mut server).await;
        server.recv_bye().await
    });
    client.finish(bye()).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Some(bye()));
}

#[tokio::test]
async fn no_last_word_is_none() {
    let fleet = Fleet::new().await;
    let (mut client, mut server) = fleet.sessions().await;
    client.shutdown().await.unwrap();
    drop(client);
    assert_eq!(server.recv_bye().await, None);
}

#[tokio::test]
async fn small_writes_that_wait_are_joined() {
    let fleet = Fleet::new().await;
    let (mut client, server) = fleet.links().await;
    let mut server = server;
    // Fill the way, so that what follows has to wait.
    while once(client.send(&Message::Data(vec![1; 16_000].into()))).await.is_some() {}
    let mut session = client.into_session();
    let mut small = 0;
    while small < 1000 && once(session.write(b"RSET\r\n")).await.is_some() {
        small += 1;
    }
    let counter = tokio::spawn(async move {
        let mut frames = 0;
        let mut small_bytes = 0;
        loop {
            match server.recv().await.unwrap() {
                Message::Data(bytes) if bytes.len() == 16_000 => {}
                Message::Data(bytes) => {
                    frames += 1;
                    small_bytes += bytes.len();
                }
                other => {
                    assert_eq!(other, Message::Fin);
                    return (frames, small_bytes);
                }
            }
        }
    });
    session.shutdown().await.unwrap();
    let (frames, small_bytes) = counter.await.unwrap();
    assert_eq!(small_bytes, small * 6);
    assert!(small == 0 || frames <= 2, "{frames} frames for {small} writes");
}

#[test]
fn a_session_stream_can_be_moved_between_tasks() {
    fn is_fit<T: AsyncWrite + tokio::io::AsyncRead + Unpin + Send + 'static>() {}
    is_fit::<SessionStream>();
}
