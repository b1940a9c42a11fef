//! A DNS server that says what it is told to, by UDP and TCP on one loopback port.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// What to say to each question.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ttl_s: u32,
    pub(crate) code: ResponseCode,
    /// By UDP: only the truncation bit.
    pub(crate) truncated: bool,
    /// Datagrams that are no answer, sent first.
    pub(crate) garbage_before: usize,
    /// Questions to ignore, counted down.
    pub(crate) dropped: usize,
    pub(crate) silent: bool,
    /// Questions for other records are ignored.
    pub(crate) only: Option<RecordType>,
}

impl Reply {
    pub(crate) fn addresses(addresses: &[IpAddr], ttl_s: u32) -> Self {
        Self {
            addresses: addresses.to_vec(),
            ttl_s,
            code: ResponseCode::NoError,
            truncated: false,
            garbage_before: 0,
            dropped: 0,
            silent: false,
            only: None,
        }
    }

    pub(crate) fn silent() -> Self {
        Self { silent: true, ..Self::addresses(&[], 0) }
    }
}

/// Ends with the test's runtime.
pub(crate) struct FakeDns {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    /// What each name gets; the empty name stands for all others.
    replies: Vec<(String, Reply)>,
    ports: Vec<u16>,
    tcp_questions: usize,
}

impl FakeDns {
    pub(crate) async fn start() -> Self {
        // The same port for both: the one that UDP got may be taken for TCP, so try again.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let state = State { replies: Vec::new(), ports: Vec::new(), tcp_questions: 0 };
        let server =
            Self { address: udp.local_addr().unwrap(), state: Arc::new(Mutex::new(state)) };
        tokio::spawn(by_udp(udp, Arc::clone(&server.state)));
        tokio::spawn(by_tcp(tcp, Arc::clone(&server.state)));
        server
    }

    /// For all names.
    pub(crate) fn set(&self, reply: Reply) {
        self.state.lock().unwrap().replies = vec![(String::new(), reply)];
    }

    /// For one name.
    pub(crate) fn set_name(&self, name: &str, reply: Reply) {
        let mut state = self.state.lock().unwrap();
        state.replies.retain(|(known, _)| known != name);
        state.replies.insert(0, (name.to_owned(), reply));
    }

    pub(crate) fn source_ports(&self) -> Vec<u16> {
        self.state.lock().unwrap().ports.clone()
    }

    pub(crate) fn tcp_questions(&self) -> usize {
        self.state.lock().unwrap().tcp_questions
    }
}

async fn by_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        state.lock().unwrap().ports.push(from.port());
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let Some(reply) = reply_for(&state, &question) else { continue };
        let answer = answer(&question, &reply, reply.truncated);
        for n in 0..reply.garbage_before {
            let mut wrong = answer.clone();
            match n % 3 {
                0 => wrong.metadata.id = wrong.metadata.id.wrapping_add(1),
                1 => wrong.queries.clear(),
                _ => wrong.metadata.message_type = MessageType::Query,
            }
            let _ = socket.send_to(&wrong.to_vec().unwrap(), from).await;
            let _ = socket.send_to(b"\xff\xff garbage", from).await;
        }
        if !reply.silent {
            let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
        }
    }
}

async fn by_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut bytes).await.unwrap();
        state.lock().unwrap().tcp_questions += 1;
        let question = Message::from_vec(&bytes).unwrap();
        let Some(reply) = reply_for(&state, &question) else { continue };
        let bytes = answer(&question, &reply, false).to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
}

fn reply_for(state: &Mutex<State>, question: &Message) -> Option<Reply> {
    let name = question.queries[0].name().to_ascii();
    let name = name.trim_end_matches('.');
    let mut state = state.lock().unwrap();
    let known = state.replies.iter_mut().find(|(known, _)| known.is_empty() || known == name);
    let Some((_, reply)) = known else { return Some(Reply::addresses(&[], 0)) };
    if reply.only.is_some_and(|only| only != question.queries[0].query_type()) {
        return None;
    }
    if reply.dropped > 0 {
        reply.dropped -= 1;
        return None;
    }
    Some(reply.clone())
}

fn answer(question: &Message, reply: &Reply, truncated: bool) -> Message {
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = reply.code;
    message.metadata.truncation = truncated;
    let query = question.queries[0].clone();
    for address in reply.addresses.iter().filter(|_| !truncated) {
        let data = match (address, query.query_type()) {
            (IpAddr::V4(v4), RecordType::A) => RData::A(A(*v4)),
            (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(*v6)),
            _ => continue,
        };
        message.add_answer(Record::from_rdata(query.name().clone(), reply.ttl_s, data));
    }
    message.add_query(query);
    message
}
