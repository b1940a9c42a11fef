//! Every limit of this crate: counts as constants, waits as [`Timing`].

use std::time::Duration;

/// Most addresses taken from DNS for one name.
pub const ADDRESSES_MAX: usize = 64;
/// Most resolvers asked in turn.
pub const RESOLVERS_MAX: usize = 8;
/// Most CNAMEs followed within one answer.
pub const CNAMES_MAX: usize = 8;
/// Largest UDP answer read; without EDNS a server sends at most 512 bytes (RFC 1035 section 4.2.1).
pub const DNS_UDP_BYTES_MAX: usize = 4096;
/// Datagrams that are no answer to our question, read before a resolver is given up.
pub const DNS_GARBAGE_MAX: usize = 256;
/// Largest file read from the state directory.
pub const STATE_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Most proxies remembered as dead or full. The oldest is forgotten for a new one.
pub const PROXIES_REMEMBERED_MAX: usize = 64;
/// Most probes under way at once; the others wait for the next round.
pub const PROBES_MAX: usize = 8;
/// Most requests waiting for one manager's connection, at some 300 bytes each: as many sessions as
/// may start at once. More count as no answer.
pub const MANAGER_QUEUE_MAX: usize = 1024;
/// Most unanswered `Assign` on one manager's connection; more wait in its queue.
pub const ASSIGNS_UNANSWERED_MAX: usize = 1024;
/// Most `Bye` waiting for their manager; more are dropped and counted, and the lease ends when the
/// manager sees it do so.
pub const BYES_QUEUED_MAX: usize = 512;
/// Most links that one session tries before it goes direct.
pub const ATTEMPTS_MAX: u32 = 8;
/// Most proxies that one session is offered to at the same time.
pub const OFFERS_MAX: usize = 2;
/// Most warm links a setting may ask for.
pub const WARM_LINKS_MAX: usize = 16;
/// Most authers tried in one login; the next one goes on with those after them.
pub const AUTHERS_TRIED_MAX: usize = 8;
/// Most messages that are no answer, read while one is awaited on a link.
pub const STRAY_MESSAGES_MAX: usize = 16;

/// Every wait of this crate. The defaults are the product's; tests shorten some.
#[derive(Debug, Clone)]
pub struct Timing {
    /// From asking one manager (or proxy) to asking the next as well.
    pub next_after: Duration,
    /// A manager that has not answered an `Assign` for so long is dead.
    pub manager_answer_max: Duration,
    /// From the start of a session to the moment it goes direct if no proxy has taken it.
    pub relay_budget: Duration,
    /// A proxy whose TCP and TLS handshakes take longer is dead.
    pub proxy_connect_max: Duration,
    /// A proxy that has not said `Opening` for so long is dead.
    pub opening_max: Duration,
    /// From `Opening` to `Opened` or `Refused`; then the mail server counts as timed out.
    pub opened_max: Duration,
    /// Connecting straight to a mail server.
    pub direct_connect_max: Duration,
    /// Between two pings of a quiet manager or warm link.
    pub ping_interval: Duration,
    /// A ping without an answer for so long: dead.
    pub pong_max: Duration,
    /// Sending one message on a link; longer: dead.
    pub send_max: Duration,
    /// A warm link older than this is replaced, so that the load follows the manager's choice.
    pub warm_age_max: Duration,
    /// First pause before a warm link is made anew after a failure; doubled each time.
    pub refill_pause_min: Duration,
    /// Longest pause before a warm link is made anew.
    pub refill_pause_max: Duration,
    /// First pause before a dead manager or proxy is probed; doubled each time.
    pub probe_pause_min: Duration,
    /// Longest pause between two probes.
    pub probe_pause_max: Duration,
    /// A probe (connect, ping, pong) that takes longer has failed.
    pub probe_max: Duration,
    /// A proxy that fails again within so long after it came back is probed as if it had been dead
    /// all the time.
    pub flapping: Duration,
    /// A dead proxy that no manager has named for so long is forgotten.
    pub proxy_forgotten_after: Duration,
    /// A proxy that said `Full`, `Draining` or `Denied` is left alone for so long.
    pub proxy_hold: Duration,
    /// After one address of a site fell silent, others at the same IP address are tried last for
    /// so long.
    pub suspicion: Duration,
    /// A manager that named no usable proxy is left alone for so long.
    pub no_proxy_hold: Duration,
    /// Longest a manager's `Busy` is believed.
    pub busy_max: Duration,
    /// A manager that said `Denied` is left alone for so long, or until there is a new ticket.
    pub denied_hold: Duration,
    /// The connection to a manager that is not the first choice is closed after so long unused.
    pub manager_idle_max: Duration,
    /// One login: connect, `Hello`, answer.
    pub login_max: Duration,
    /// First pause after a login that no auther answered; doubled each time.
    pub login_pause_min: Duration,
    /// Longest pause between two logins that no auther answers.
    pub login_pause_max: Duration,
    /// Pause after an auther denied this box; also the least time between two logins made because
    /// a manager or proxy denied the ticket.
    pub denied_pause: Duration,
    /// A UDP question is sent again after so long.
    pub dns_resend: Duration,
    /// A resolver is given up after so long, TCP included.
    pub dns_resolver_max: Duration,
    /// Once one family's addresses are there, the other's are waited for so long.
    pub dns_second_family_max: Duration,
    /// Shortest time a list is used before DNS is asked again.
    pub dns_ttl_min: Duration,
    /// Longest time a list is used before DNS is asked again.
    pub dns_ttl_max: Duration,
    /// First pause after DNS failed; doubled each time.
    pub dns_pause_min: Duration,
    /// Longest pause between two failing lookups.
    pub dns_pause_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        let s = Duration::from_secs;
        Self {
            next_after: ms(300),
            manager_answer_max: s(5),
            relay_budget: s(5),
            proxy_connect_max: s(2),
            opening_max: s(1),
            opened_max: s(30),
            direct_connect_max: s(30),
            ping_interval: s(5),
            pong_max: s(2),
            send_max: s(2),
            warm_age_max: s(300),
            refill_pause_min: ms(250),
            refill_pause_max: s(20),
            probe_pause_min: s(1),
            probe_pause_max: s(10),
            probe_max: s(5),
            flapping: s(300),
            proxy_forgotten_after: s(3600),
            proxy_hold: s(10),
            suspicion: s(5),
            no_proxy_hold: s(5),
            busy_max: s(60),
            denied_hold: s(60),
            manager_idle_max: s(60),
            login_max: s(5),
            login_pause_min: s(2),
            login_pause_max: s(60),
            denied_pause: s(60),
            dns_resend: s(1),
            dns_resolver_max: s(3),
            dns_second_family_max: s(1),
            dns_ttl_min: s(5),
            dns_ttl_max: s(24 * 3600),
            dns_pause_min: s(2),
            dns_pause_max: s(60),
        }
    }
}
