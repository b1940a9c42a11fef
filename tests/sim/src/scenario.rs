//! What happens to a fleet: named scenarios.

use manager::fleet::Selection;

use crate::office::Crowd;
use crate::queue::At;
use crate::random::us;
use crate::site::{MANAGERS, PROXIES, Reach};

const HOUR_S: f64 = 3_600.0;

/// One scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// As on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// How managers choose.
    pub selection: Selection,
    /// From one poll to the next, seconds: the age of load reports.
    pub poll_s: f64,
    /// Measured from this time of the day.
    pub from: At,
    /// For so long.
    pub lasts: At,
    /// Run for so long before that.
    pub warm_up: At,
    /// A crowd, if there is one.
    pub crowd: Option<Crowd>,
    /// What happens when.
    pub actions: Vec<(At, Action)>,
    /// The site that it is about.
    pub site: Option<usize>,
}

/// Something happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// To a whole site.
    Site(usize, Reach),
    /// To all of them.
    AllSites(Reach),
    /// To one manager.
    Manager(usize, Reach),
    /// To one proxy.
    Proxy(usize, Reach),
    /// A proxy's host has load from something else.
    OtherLoad(usize, f64),
    /// A site is put into DNS, or taken out.
    Listed(usize, bool),
    /// DNS answers, or does not.
    Dns(bool),
}

impl Action {
    /// For a mark in a chart.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Site(_, Reach::Up) | Self::Manager(_, Reach::Up) | Self::Proxy(_, Reach::Up) => {
                "back"
            }
            Self::AllSites(Reach::Up) => "all back",
            Self::Site(_, Reach::Silent)
            | Self::Manager(_, Reach::Silent)
            | Self::Proxy(_, Reach::Silent) => "silent",
            Self::Site(_, Reach::Refusing)
            | Self::Manager(_, Reach::Refusing)
            | Self::Proxy(_, Reach::Refusing) => "refusing",
            Self::AllSites(_) => "all silent",
            Self::OtherLoad(_, load) if *load > 0.0 => "loaded",
            Self::OtherLoad(..) => "load gone",
            Self::Listed(_, true) => "in DNS",
            Self::Listed(_, false) => "out of DNS",
            Self::Dns(true) => "DNS back",
            Self::Dns(false) => "DNS gone",
        }
    }
}

/// The site that fails.
const SITE: usize = 3;

/// All scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = failures();
    all.extend(selections());
    all
}

fn at(hours: f64) -> At {
    us(hours * HOUR_S)
}

fn scenario(name: &'static str, about: &'static str, actions: Vec<(At, Action)>) -> Scenario {
    Scenario {
        name,
        about,
        selection: Selection::TwoChoices,
        poll_s: 1.0,
        from: at(9.0),
        lasts: at(0.5),
        warm_up: us(900.0),
        crowd: None,
        actions,
        site: None,
    }
}

/// Ten past nine: the fleet is busy and has been for a while.
fn failures() -> Vec<Scenario> {
    let (then, later) = (at(9.0) + us(600.0), at(9.0) + us(1_200.0));
    let site = |scenario: Scenario| Scenario { site: Some(SITE), ..scenario };
    vec![
        Scenario {
            from: 0,
            lasts: at(24.0),
            warm_up: 0,
            actions: vec![
                (at(10.0), Action::Site(SITE, Reach::Silent)),
                (at(15.0), Action::Site(SITE, Reach::Up)),
            ],
            ..site(scenario("day", "a day; one site is silent from ten to fifteen o'clock", vec![]))
        },
        site(scenario(
            "site-silent",
            "a site is cut off, its packets dropped, and comes back ten minutes later",
            vec![(then, Action::Site(SITE, Reach::Silent)), (later, Action::Site(SITE, Reach::Up))],
        )),
        site(scenario(
            "site-refusing",
            "a site's programs end, connections are refused, and come back ten minutes later",
            vec![
                (then, Action::Site(SITE, Reach::Refusing)),
                (later, Action::Site(SITE, Reach::Up)),
            ],
        )),
        Scenario {
            lasts: at(1.75),
            ..site(scenario(
                "site-removed",
                "a site is taken out of DNS and left to drain",
                vec![(then, Action::Listed(SITE, false))],
            ))
        },
        site(scenario(
            "manager-silent",
            "one manager of a site falls silent",
            vec![(then, Action::Manager(SITE * MANAGERS, Reach::Silent))],
        )),
        site(scenario(
            "proxy-silent",
            "one proxy falls silent, and is back ten minutes later",
            vec![
                (then, Action::Proxy(SITE * PROXIES, Reach::Silent)),
                (later, Action::Proxy(SITE * PROXIES, Reach::Up)),
            ],
        )),
        site(scenario(
            "proxy-overload",
            "something else loads one proxy's host for ten minutes",
            vec![
                (then, Action::OtherLoad(SITE * PROXIES, 12.0)),
                (later, Action::OtherLoad(SITE * PROXIES, 0.0)),
            ],
        )),
        scenario(
            "dns-gone",
            "DNS does not answer any more; ten minutes later a site falls silent too",
            vec![(then, Action::Dns(false)), (later, Action::Site(SITE, Reach::Silent))],
        ),
        scenario(
            "all-silent",
            "all sites are cut off, and are back ten minutes later",
            vec![(then, Action::AllSites(Reach::Silent)), (later, Action::AllSites(Reach::Up))],
        ),
        Scenario {
            from: at(8.75),
            crowd: Some(Crowd { from: at(9.0), until: at(9.0) + us(120.0), times: 10.0 }),
            ..scenario(
                "crowd",
                "at nine all come at once: ten times the rate for two minutes",
                vec![],
            )
        },
    ]
}

/// The three selections, with reports of one second and of ten.
fn selections() -> Vec<Scenario> {
    let one = |name, selection, poll_s| Scenario {
        selection,
        poll_s,
        ..scenario(name, "half an hour of the morning, nothing fails", vec![])
    };
    vec![
        one("table-1s", Selection::Table, 1.0),
        one("table-10s", Selection::Table, 10.0),
        one("least-load-1s", Selection::LeastLoad, 1.0),
        one("least-load-10s", Selection::LeastLoad, 10.0),
        one("two-choices-1s", Selection::TwoChoices, 1.0),
        one("two-choices-10s", Selection::TwoChoices, 10.0),
    ]
}
