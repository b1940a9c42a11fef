use proptest::prelude::*;

use super::*;

const START: Duration = Duration::from_secs(100);

/// A session with what it has written so far.
struct Desk {
    session: Session,
    now: Duration,
    seen: String,
    orders: Vec<Order>,
}

impl Desk {
    fn new() -> Self {
        let mut desk = Self {
            session: Session::default(),
            now: START,
            seen: String::new(),
            orders: Vec::new(),
        };
        desk.session.opened(START);
        desk.take();
        desk
    }

    fn take(&mut self) {
        self.seen.push_str(&String::from_utf8(self.session.take_output()).unwrap());
        self.orders.extend(self.session.take_orders());
    }

    fn types(&mut self, text: &str) -> String {
        self.session.bytes(text.as_bytes(), self.now);
        self.take();
        std::mem::take(&mut self.seen)
    }

    fn job(&mut self) -> (u64, Job) {
        match self.orders.pop() {
            Some(Order::Start(id, job)) => (id, job),
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self, id: u64, report: Report) -> String {
        self.session.report(id, report, self.now);
        self.take();
        std::mem::take(&mut self.seen)
    }

    fn greeted(&mut self, door: Door) -> String {
        self.types("\r");
        let (id, job) = self.job();
        assert_eq!(job, Job::Banner);
        let seen = self.report(id, Report::Door(door));
        seen + &self.report(id, Report::End)
    }

    fn passes(&mut self, time: Duration) -> String {
        self.now += time;
        self.session.tick(self.now);
        self.take();
        std::mem::take(&mut self.seen)
    }
}

fn desk_inside() -> Desk {
    let mut desk = Desk::new();
    desk.greeted(Door::Open);
    desk
}

#[test]
fn the_right_secret_opens_and_wrong_ones_wait_longer_each_time() {
    let mut desk = Desk::new();
    assert!(desk.greeted(Door::Locked).contains("Secret: "));
    let mut waited = Vec::new();
    for _ in 0..10 {
        let typed = desk.types("wrong\r");
        assert!(!typed.contains("wrong"));
        let (id, job) = desk.job();
        assert_eq!(job, Job::Verify(Secret("wrong".to_owned())));
        let seen = desk.report(id, Report::Verified(false));
        desk.report(id, Report::End);
        assert!(seen.contains("Wrong."), "{seen}");
        let delay = desk.session.deadline().unwrap() - desk.now;
        waited.push(delay.as_secs());
        // Neither typing nor hanging up ends the wait.
        assert!(desk.types("secret\r").contains("Wait"));
        desk.session.opened(desk.now);
        desk.take();
        assert!(desk.greeted(Door::Locked).contains("wait"), "{}", desk.seen);
        assert!(desk.orders.iter().all(|order| !matches!(order, Order::Start(_, Job::Verify(_)))));
        assert!(desk.passes(delay).contains("Secret: "));
    }
    assert_eq!(waited, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    desk.types("right\r");
    let (id, _) = desk.job();
    assert!(desk.report(id, Report::Verified(true)).contains("avr> "));
    desk.types("exit\r");
    desk.greeted(Door::Locked);
    desk.types("wrong\r");
    let (id, _) = desk.job();
    assert!(desk.report(id, Report::Verified(false)).contains("in 1 s"));
}

#[test]
fn without_a_secret_the_door_is_open_and_says_so() {
    let mut desk = Desk::new();
    let seen = desk.greeted(Door::Open);
    assert!(seen.contains("NO SECRET IS SET"), "{seen}");
    desk.types("capture lan0\r");
    assert!(matches!(desk.job().1, Job::Run(Command::Capture(_))));
}

#[test]
fn with_a_broken_lock_only_repairs_are_open() {
    let mut desk = Desk::new();
    let seen = desk.greeted(Door::Broken("no STATE".to_owned()));
    assert!(seen.contains("(no STATE)"), "{seen}");
    for line in ["capture lan0", "support serial", "secret", "bypass on", "snooze 1m", "mail x"] {
        assert!(desk.types(&format!("{line}\r")).contains("Not now"), "{line}");
        assert_eq!(desk.orders, []);
    }
    desk.types("9\r");
    assert_eq!(desk.orders, [], "questions are not a way round");
    desk.types("reboot\ryes\r");
    assert_eq!(desk.job().1, Job::Repair(Box::new(Job::Run(Command::Reboot))));
}

#[test]
fn a_lock_that_works_again_is_used_at_once() {
    let mut desk = Desk::new();
    desk.greeted(Door::Broken("no STATE".to_owned()));
    desk.types("factory-reset\r02005e100003\r");
    let (id, job) = desk.job();
    assert!(matches!(job, Job::Repair(_)), "{job:?}");
    let seen = desk.report(id, Report::Door(Door::Locked));
    assert!(seen.contains("can be checked by now") && seen.contains("Secret: "), "{seen}");
    assert_eq!(desk.report(id, Report::End), "");
    desk.orders.clear();
    desk.types("reboot\r");
    assert_eq!(desk.job().1, Job::Verify(Secret("reboot".to_owned())));
}

#[test]
fn a_box_that_has_only_started_lets_nobody_in() {
    let mut desk = Desk::new();
    let seen = desk.greeted(Door::Early(47));
    assert!(seen.contains("in 47 s") && seen.contains("Press Enter"), "{seen}");
    desk.orders.clear();
    desk.types("reboot\ryes\r");
    assert_eq!(desk.job().1, Job::Banner);
}

#[test]
fn the_menu_asks_for_what_a_command_needs() {
    let mut desk = desk_inside();
    assert!(desk.types("7\r").contains("Host or address: "));
    assert!(desk.types("192.0.2.1\r").contains("Port: "));
    desk.types("25\r");
    let target = command::Target { host: "192.0.2.1".to_owned(), port: 25 };
    let (id, job) = desk.job();
    assert_eq!(job, Job::Run(Command::Port(target)));
    desk.report(id, Report::End);
    // Given up in the middle.
    desk.types("4\r");
    assert!(desk.types("\x03").contains("avr> "));
    assert_eq!(desk.orders, []);
}

#[test]
fn what_cuts_the_line_is_asked_twice() {
    let mut desk = desk_inside();
    for line in ["reboot", "poweroff", "bypass on", "addresses dhcp", "update usb:a"] {
        assert!(desk.types(&format!("{line}\r")).contains("Type yes"), "{line}");
        assert!(desk.types("y\r").contains("Nothing is done"));
        assert_eq!(desk.orders, []);
    }
    desk.types("reboot\ryes\r");
    assert_eq!(desk.job().1, Job::Run(Command::Reboot));
}

#[test]
fn a_factory_reset_takes_what_was_typed_as_the_serial_number() {
    let mut desk = desk_inside();
    desk.types("factory-reset\r\r");
    assert_eq!(desk.orders, []);
    desk.types("factory-reset\r02005e100003\r");
    assert_eq!(desk.job().1, Job::FactoryReset("02005e100003".to_owned()));
}

#[test]
fn a_secret_is_typed_twice() {
    let mut desk = desk_inside();
    assert!(desk.types("secret\rshort\r").contains("Too short"));
    assert!(desk.types("secret\rlong enough\rother words\r").contains("not the same"));
    assert_eq!(desk.orders, []);
    let seen = desk.types("secret\rlong enough\rlong enough\r");
    assert!(!seen.contains("enough"), "{seen}");
    assert_eq!(desk.job().1, Job::SetSecret(Secret("long enough".to_owned())));
}

#[test]
fn unconfirmed_addresses_are_counted_down_and_said_to_be_back() {
    let mut desk = desk_inside();
    desk.types("addresses static 192.0.2.7/24\ryes\r");
    let (id, _) = desk.job();
    desk.report(id, Report::Unconfirmed(Some(180)));
    assert!(desk.report(id, Report::End).contains("confirm within 180 s)> "));
    assert_eq!(desk.session.deadline(), Some(desk.now + Duration::from_secs(180)));
    assert!(desk.passes(Duration::from_secs(180)).contains("the former ones are back"));
    assert!(desk.types("\x0c").contains("avr> "));
}

#[test]
fn long_answers_come_in_pages() {
    let mut desk = desk_inside();
    desk.types("logs\r");
    let (id, _) = desk.job();
    let mut seen = String::new();
    let mut said = 0;
    while desk.session.wants_reports() {
        seen += &desk.report(id, Report::Line(format!("line {said}")));
        said += 1;
    }
    assert_eq!(said, PAGE_LINES + WAITING_LINES_MAX);
    assert!(seen.contains("line 21\r\n") && !seen.contains("line 22\r\n"), "{seen}");
    assert!(desk.types("\r").contains("line 22\r\n"));
    assert!(desk.types(" ").contains("line 44\r\n"));
    assert!(desk.types("q").contains("avr> "));
    assert_eq!(desk.orders, [Order::Cancel(id)]);
    assert_eq!(desk.report(id, Report::Line("late".to_owned())), "");
}

#[test]
fn a_capture_that_is_ended_says_what_it_has() {
    let mut desk = desk_inside();
    desk.types("capture lan0\r");
    let (id, _) = desk.job();
    assert!(!desk.types("q").contains("avr> "));
    assert_eq!(desk.orders, [Order::Cancel(id)]);
    assert!(desk.report(id, Report::Line("7 frames".to_owned())).contains("7 frames"));
    // One that does not end is not waited for.
    assert!(desk.types("\x03").contains("avr> "));
}

#[test]
fn silence_locks() {
    let mut desk = desk_inside();
    assert!(desk.passes(IDLE_MAX).contains("locked"));
    desk.types("x");
    assert_eq!(desk.orders, []);
    desk.greeted(Door::Locked);
    assert!(desk.passes(LOGIN_MAX).contains("Press Enter"));
    let mut desk = desk_inside();
    desk.types("status\r");
    let (id, _) = desk.job();
    desk.report(id, Report::End);
    desk.types("exit\r");
    desk.greeted(Door::Open);
    desk.orders.clear();
    desk.types("\x1b[A\r");
    assert_eq!(desk.orders, [], "the next one does not see what the last one typed");
}

#[test]
fn names_from_elsewhere_steer_nothing() {
    let mut desk = desk_inside();
    desk.types("live\r");
    let (id, _) = desk.job();
    let seen = desk.report(id, Report::Screen(vec!["mx\u{1b}[2Jx\u{7}".to_owned()]));
    assert!(seen.contains(r"mx\u{1b}[2Jx\u{7}"), "{seen}");
    desk.types("q");
    desk.types("ping a\r");
    let (id, _) = desk.job();
    let seen = desk.report(id, Report::Line("a\u{1b}]0;x\u{7}\r\nPASS all".to_owned()));
    assert!(!seen.contains('\u{1b}') && !seen.contains('\u{7}'), "{seen}");
    assert_eq!(seen.matches("\r\n").count(), 1);
}

proptest! {
    #[test]
    fn chunks_do_not_matter(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cuts in prop::collection::vec(0_usize..200, 0..10),
    ) {
        let whole = {
            let mut desk = desk_inside();
            desk.session.bytes(&bytes, START);
            desk.take();
            desk
        };
        let mut desk = desk_inside();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut from = 0;
        for cut in cuts {
            desk.session.bytes(&bytes[from..cut], START);
            desk.take();
            from = cut;
        }
        // What is drawn between may differ; what is ordered may not.
        prop_assert_eq!(desk.orders, whole.orders);
        prop_assert_eq!(format!("{:?}", desk.session.state), format!("{:?}", whole.session.state));
        prop_assert_eq!(format!("{:?}", desk.session.editor), format!("{:?}", whole.session.editor));
    }

    #[test]
    fn behind_the_lock_no_bytes_do_anything(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut desk = Desk::new();
        desk.greeted(Door::Locked);
        desk.orders.clear();
        desk.session.bytes(&bytes, START);
        desk.take();
        for order in &desk.orders {
            let harmless = matches!(order, Order::Cancel(_) | Order::Start(_, Job::Banner | Job::Verify(_)));
            prop_assert!(harmless, "{order:?}");
        }
        let mut steering = desk.seen.chars().filter(|&char| char.is_control());
        let known = steering.all(|char| matches!(char, '\r' | '\n' | '\u{1b}'));
        prop_assert!(known);
    }

    #[test]
    fn after_any_bytes_a_person_gets_the_prompt(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut desk = desk_inside();
        desk.session.bytes(&bytes, START);
        desk.take();
        desk.types("\x03");
        if matches!(desk.session.state, State::Locked) {
            desk.greeted(Door::Open);
        }
        if matches!(desk.session.state, State::Greeting) {
            desk.session.report(desk.session.job, Report::Door(Door::Open), START);
        }
        desk.take();
        desk.seen.clear();
        prop_assert!(desk.types("\x03").contains("avr> "));
    }
}
