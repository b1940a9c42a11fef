//! Who is logged in, and how often a secret may be tried. Takes the time as an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use box_console::login::Throttle;
use box_console::session::IDLE_MAX;

/// Browsers that are logged in at once; for a further one the oldest is logged out.
pub(crate) const SESSIONS_MAX: usize = 8;
/// How long a login is good for at most.
pub(crate) const SESSION_TIME_MAX: Duration = Duration::from_secs(8 * 60 * 60);
/// Bytes of a session's number and of its token.
const TOKEN_BYTES: usize = 32;
/// Addresses whose wrong secrets are counted one by one; all others share a count.
const SOURCES_MAX: usize = 256;
/// After so long without a wrong secret, those of an address are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A number nobody can guess, in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    /// `None` when the operating system gives no random numbers.
    fn new() -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// As it is sent.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    fn is(&self, shown: &str) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), shown.as_bytes()).is_ok()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A browser that is logged in.
#[derive(Debug, Clone)]
struct Session {
    number: Token,
    form: Token,
    began: Duration,
    seen: Duration,
    notice: Option<String>,
}

/// What a browser with a session gets.
#[derive(Debug, Clone)]
pub(crate) struct LoggedIn {
    /// What its forms must carry: a page elsewhere cannot know it.
    pub(crate) form: Token,
    /// What came of its last order, shown once.
    pub(crate) notice: Option<String>,
}

/// All browsers that are logged in, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Vec<Session>);

impl Sessions {
    /// Logs a browser in; its session's number, for the cookie.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Token> {
        let (number, form) = (Token::new()?, Token::new()?);
        self.expire(now);
        if self.0.len() >= SESSIONS_MAX {
            self.0.remove(0);
        }
        let session = Session { number: number.clone(), form, began: now, seen: now, notice: None };
        self.0.push(session);
        Some(number)
    }

    /// Who shows this number in its cookie.
    pub(crate) fn find(&mut self, number: &str, now: Duration) -> Option<LoggedIn> {
        let session = self.session(number, now)?;
        session.seen = now;
        Some(LoggedIn { form: session.form.clone(), notice: session.notice.take() })
    }

    /// Whether an order comes from a page of this session. The notice stays for the page to come.
    pub(crate) fn may_order(&mut self, number: &str, form: &str, now: Duration) -> bool {
        let Some(session) = self.session(number, now) else { return false };
        session.seen = now;
        session.form.is(form)
    }

    /// What the session's next page says.
    pub(crate) fn tell(&mut self, number: &str, notice: String, now: Duration) {
        if let Some(session) = self.session(number, now) {
            session.notice = Some(notice);
        }
    }

    /// Logs a browser out.
    pub(crate) fn end(&mut self, number: &str) {
        self.0.retain(|session| !session.number.is(number));
    }

    fn session(&mut self, number: &str, now: Duration) -> Option<&mut Session> {
        self.expire(now);
        self.0.iter_mut().find(|session| session.number.is(number))
    }

    fn expire(&mut self, now: Duration) {
        self.0.retain(|session| {
            now < session.began + SESSION_TIME_MAX && now < session.seen + IDLE_MAX
        });
    }
}

/// Wrong secrets by address: who guesses must not lock out who knows.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    sources: HashMap<IpAddr, (Throttle, Duration)>,
    others: Throttle,
}

impl Gate {
    /// How long this address has to wait; `None`: a secret is taken now.
    pub(crate) fn wait(&self, peer: IpAddr, now: Duration) -> Option<Duration> {
        let source = source(peer);
        let throttle = match self.sources.get(&source) {
            Some((throttle, _)) => throttle,
            None if self.sources.len() < SOURCES_MAX => return None,
            None => &self.others,
        };
        throttle.held_until(now).map(|until| until.saturating_sub(now))
    }

    /// The secret was right.
    pub(crate) fn right(&mut self, peer: IpAddr) {
        self.sources.remove(&source(peer));
    }

    /// The secret was wrong; how long the next one has to wait.
    pub(crate) fn wrong(&mut self, peer: IpAddr, now: Duration) -> Duration {
        let source = source(peer);
        if self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, (_, last)| now < *last + FORGET_AFTER);
        }
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            return self.others.wrong(now);
        }
        let (throttle, last) = self.sources.entry(source).or_default();
        *last = now;
        throttle.wrong(now)
    }
}

/// One host may have as many IPv6 addresses as its network has room for.
fn source(peer: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);

    #[test]
    fn a_session_ends_by_silence_and_by_age_and_by_order() {
        let mut sessions = Sessions::default();
        let number = sessions.begin(START).unwrap();
        let number = number.expose();
        let form = sessions.find(number, START).unwrap().form;
        assert!(sessions.may_order(number, form.expose(), START));
        assert!(!sessions.may_order(number, "", START));
        assert!(!sessions.may_order("", form.expose(), START));
        sessions.tell(number, "done".to_owned(), START);
        assert_eq!(sessions.find(number, START).unwrap().notice.as_deref(), Some("done"));
        assert_eq!(sessions.find(number, START).unwrap().notice, None, "it is said once");
        assert!(sessions.find(number, START + IDLE_MAX).is_none());
        let number = sessions.begin(START).unwrap();
        let mut now = START;
        while now < START + SESSION_TIME_MAX {
            assert!(sessions.find(number.expose(), now).is_some());
            now += IDLE_MAX / 2;
        }
        assert!(sessions.find(number.expose(), now).is_none());
        let number = sessions.begin(START).unwrap();
        sessions.end(number.expose());
        assert!(sessions.find(number.expose(), START).is_none());
    }

    #[test]
    fn a_login_too_many_puts_out_the_oldest() {
        let mut sessions = Sessions::default();
        let numbers: Vec<_> = (0..=SESSIONS_MAX).map(|_| sessions.begin(START).unwrap()).collect();
        let good: Vec<_> =
            numbers.iter().map(|n| sessions.find(n.expose(), START).is_some()).collect();
        assert!(!good[0] && good[1..].iter().all(|&good| good), "{good:?}");
    }

    #[test]
    fn who_guesses_waits_and_nobody_else() {
        let mut gate = Gate::default();
        let address = |n: u32| IpAddr::V4(n.into());
        assert_eq!(gate.wrong(address(1), START), Duration::from_secs(1));
        assert_eq!(gate.wrong(address(1), START), Duration::from_secs(2));
        assert_eq!(gate.wait(address(1), START), Some(Duration::from_secs(2)));
        assert_eq!(gate.wait(address(2), START), None);
        gate.right(address(1));
        assert_eq!(gate.wait(address(1), START), None);
        // All of an IPv6 network is one host; one of IPv4 is the same by either family.
        let network: Vec<IpAddr> =
            ["2001:db8::1", "2001:db8::ffff:1"].map(|text| text.parse().unwrap()).into();
        gate.wrong(network[0], START);
        assert!(gate.wait(network[1], START).is_some());
        gate.wrong("::ffff:192.0.2.1".parse().unwrap(), START);
        assert!(gate.wait("192.0.2.1".parse().unwrap(), START).is_some());
    }

    #[test]
    fn a_host_with_a_thousand_addresses_waits_with_all_of_them() {
        let mut gate = Gate::default();
        let address = |n: u32| IpAddr::V4(n.into());
        for n in 0..1_000 {
            gate.wrong(address(n), START);
        }
        assert_eq!(gate.sources.len(), SOURCES_MAX);
        assert!(gate.wait(address(5_000), START).is_some());
        // After a day it is forgotten.
        let later = START + FORGET_AFTER;
        assert_eq!(gate.wrong(address(5_000), later), Duration::from_secs(1));
        assert_eq!(gate.sources.len(), 1);
    }
}
