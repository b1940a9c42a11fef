//! Ethernet frames, alone and into the box's stack.

use std::time::{Duration, Instant};

use box_stack::{Disposition, Port, Refusal, Segment, Settings, Stack, Verdict};

/// One frame.
pub(crate) fn frame(bytes: &[u8]) {
    if let Some(segment) = Segment::parse(bytes) {
        let _ = (segment.source(), segment.destination(), segment.opens(), segment.resets());
        let _ = (segment.source_mac(), segment.destination_mac(), segment.is_intact());
    }
}

/// Frames one after the other, each behind two bytes: what happens before it, and its length.
pub(crate) fn stack(bytes: &[u8]) {
    // An opaque start; the stack only adds to it.
    #[allow(clippy::disallowed_methods, reason = "as the driver does, once")]
    let mut now = Instant::now();
    let settings = Settings { flows_max: 8, ..Settings::default() };
    let mut seed = 1_u64;
    let entropy = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed
    };
    let mut stack = Stack::new(settings, Box::new(entropy), now);
    let mut take = |_: &Segment<'_>, _: Port| Verdict::Take;
    let mut rest = bytes;
    while let [choice, length, behind @ ..] = rest {
        let (frame, after) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = after;
        now += Duration::from_secs(u64::from(choice >> 4));
        if stack.poll_timeout().is_some_and(|at| at <= now) {
            stack.handle_timeout(now);
        }
        let port = if choice & 1 == 0 { Port::Lan } else { Port::Wan };
        let is_none = Segment::parse(frame).is_none();
        let disposition = stack.receive(port, frame, now, &mut take);
        assert!(!is_none || disposition == Disposition::Bridge, "what is no segment is bridged");
        while let Some(opening) = stack.poll_event() {
            match choice & 6 {
                0 => stack.refuse(opening.flow, Refusal::Refused),
                2 => stack.refuse(opening.flow, Refusal::Unreachable),
                _ => drop(stack.accept(opening.flow, now)),
            }
        }
        while stack.poll_transmit(now).is_some() {}
        assert!(stack.flows() <= 8, "{} flows", stack.flows());
    }
    stack.abort_all(now);
    while stack.poll_transmit(now).is_some() {}
}
