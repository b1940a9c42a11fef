//! Who asks, and whether he may.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use service_kit::listener::Unproven;
use tracing::{info, warn};

use super::Api;
use super::types::Problem;
use crate::registry::{Actor, Scope};
use crate::token;

/// Wrong tokens from one client within [`AUTH_FAILURES_SPAN_S`], after which it has to wait.
pub const AUTH_FAILURES_MAX: u32 = 10;
/// In seconds.
pub const AUTH_FAILURES_SPAN_S: u64 = 60;
/// Clients whose failures are counted at once. When there are more, the oldest is forgotten.
pub const CLIENTS_MAX: usize = 4096;

/// Where a request comes from. The listener puts it into the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A user of this host, as the kernel says (`SO_PEERCRED`). The file mode of the socket is what
    /// let him in.
    Unix {
        /// His number.
        uid: u32,
    },
    /// Somebody who has to show a token.
    Tcp(SocketAddr),
}

/// What a connection holds until a request of it was let through: so long it makes room for others.
#[derive(Debug, Clone)]
pub(super) struct Proof(Arc<Mutex<Option<Unproven>>>);

impl Proof {
    pub(super) fn new(unproven: Option<Unproven>) -> Self {
        Self(Arc::new(Mutex::new(unproven)))
    }

    fn given(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) actor: Actor,
    is_local: bool,
}

impl Caller {
    pub(super) fn must_be_local(&self) -> Result<(), Problem> {
        if self.is_local {
            Ok(())
        } else {
            let error = "tokens are made and removed with `avr-auther token` on the auther itself";
            Err(Problem::new(StatusCode::FORBIDDEN, error))
        }
    }
}

/// Lets a request through to its handler, or not.
pub(super) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let caller = match api.caller(peer, &method, request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if let Some(proof) = request.extensions().get::<Proof>() {
        proof.given();
    }
    let who = caller.actor.name().to_owned();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if !is_reading(&method) {
        let path = telemetry::escape(path.as_bytes()).to_string();
        let status = response.status().as_u16();
        info!(who, %method, path, status, "admin");
    }
    response
}

fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

impl Api {
    async fn caller(
        &self,
        peer: Option<Peer>,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        let address = match peer {
            Some(Peer::Unix { uid }) => {
                return Ok(Caller { actor: Actor::unix(uid), is_local: true });
            }
            Some(Peer::Tcp(address)) => address,
            None => return Err(Problem::unavailable("the listener does not say who asks")),
        };
        let client = client(address.ip());
        let now_s = (self.clock)();
        if self.failures(|failures| failures.is_too_many(client, now_s)) {
            let error = "too many wrong tokens from your address; wait a minute";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, error));
        }
        let shown = bearer(headers).and_then(token::split);
        let found = match shown {
            Some((name, secret)) => {
                let found = self.registry.find_token(name).await?;
                found.filter(|token| token::admits(token, secret, now_s))
            }
            None => None,
        };
        let Some(token) = found else {
            self.failures(|failures| failures.note(client, now_s));
            let name = shown.map_or("-", |(name, _)| name);
            warn!(peer = %address, token = name, "admin: no such token");
            let error = "show a token of this auther: `Authorization: Bearer avr.…`";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, error));
        };
        if !is_reading(method) && token.scope < Scope::Write {
            let error =
                "this token is for reading; `avr-auther token add --scope write` makes another";
            return Err(Problem::new(StatusCode::FORBIDDEN, error));
        }
        Ok(Caller { actor: Actor::token(&token.name), is_local: false })
    }

    fn failures<T>(&self, look: impl FnOnce(&mut Failures) -> T) -> T {
        look(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The token that a request shows, if it shows one and no more.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (one, more) = (shown.next()?, shown.next());
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    (more.is_none() && scheme.eq_ignore_ascii_case("bearer")).then_some(token)
}

/// Whoever has one IPv6 address has a /64 of them.
fn client(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// Wrong tokens, by client.
#[derive(Debug, Default)]
pub(super) struct Failures {
    clients: HashMap<IpAddr, Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    since_s: u64,
    failures: u32,
}

impl Span {
    fn is_over(&self, now_s: u64) -> bool {
        now_s.saturating_sub(self.since_s) >= AUTH_FAILURES_SPAN_S
    }
}

impl Failures {
    fn is_too_many(&self, client: IpAddr, now_s: u64) -> bool {
        let span = self.clients.get(&client);
        span.is_some_and(|span| span.failures >= AUTH_FAILURES_MAX && !span.is_over(now_s))
    }

    fn note(&mut self, client: IpAddr, now_s: u64) {
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            self.clients.retain(|_, span| !span.is_over(now_s));
            let oldest = self.clients.iter().min_by_key(|(_, span)| span.since_s);
            if let Some((&oldest, _)) = oldest.filter(|_| self.clients.len() >= CLIENTS_MAX) {
                self.clients.remove(&oldest);
            }
        }
        let span = self.clients.entry(client).or_insert(Span { since_s: now_s, failures: 0 });
        if span.is_over(now_s) {
            *span = Span { since_s: now_s, failures: 0 };
        }
        span.failures = span.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + last).into()
    }

    #[test]
    fn a_client_waits_after_too_many_failures_and_others_do_not() {
        let mut failures = Failures::default();
        for _ in 0..AUTH_FAILURES_MAX {
            assert!(!failures.is_too_many(ip(1), 1000));
            failures.note(ip(1), 1000);
        }
        let end_s = 1000 + AUTH_FAILURES_SPAN_S;
        assert!(failures.is_too_many(ip(1), end_s - 1));
        assert!(!failures.is_too_many(ip(2), 1000));
        assert!(!failures.is_too_many(ip(1), end_s));
        failures.note(ip(1), end_s);
        assert!(!failures.is_too_many(ip(1), end_s));
    }

    #[test]
    fn the_table_stays_bounded_and_forgets_the_oldest() {
        let mut failures = Failures::default();
        let clients = u32::try_from(CLIENTS_MAX).unwrap();
        for number in 0..clients + 10 {
            failures.note(ip(number), 1000 + u64::from(number) / 100);
        }
        assert_eq!(failures.clients.len(), CLIENTS_MAX);
        assert!(failures.clients.contains_key(&ip(clients + 9)));
        // When the spans are over, all of them make room.
        failures.note(ip(clients + 10), 9000);
        assert_eq!(failures.clients.len(), 1);
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_one_its_ipv4_address() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(client(parse("2001:db8:1:2:3:4:5:6")), parse("2001:db8:1:2::"));
        assert_eq!(client(parse("::ffff:10.0.0.1")), parse("10.0.0.1"));
    }

    #[test]
    fn one_token_is_shown_and_no_more() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.append(header::AUTHORIZATION, "bearer avr.x.y".parse().unwrap());
        assert_eq!(bearer(&headers), Some("avr.x.y"));
        headers.append(header::AUTHORIZATION, "Bearer avr.x.y".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }
}
