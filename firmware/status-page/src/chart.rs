//! The charts of a day, as SVG that we draw. Coordinates are whole numbers of a fixed field; the browser
//! scales it.

use crate::history::{MINUTES, Minute};
use crate::html::Html;

/// A bar is of so many minutes.
const BAR_MINUTES: u32 = 10;
/// Size of a chart, and where in it things are drawn.
const LEFT: u64 = 44;
const BAR_WIDTH: u64 = 6;
const BARS: u64 = (MINUTES / BAR_MINUTES) as u64;
const RIGHT: u64 = LEFT + BARS * BAR_WIDTH;
const TOP: u64 = 10;
const HEIGHT: u64 = 90;
const BASE: u64 = TOP + HEIGHT;
/// Under the base line, where the times stand.
const TIMES: u64 = BASE + 18;
/// Lines across.
const STEPS: u64 = 4;
/// From one time to the next along the foot, in minutes.
const TICK_MINUTES: u32 = 180;

/// What is stacked in each bar: a class of the style sheet, and how much of a bar's minutes it is.
pub(crate) type Part = (&'static str, fn(&[Minute]) -> u64);

/// A chart of the day that ends with the minute `now`. With `max` that is the top line, else it is found.
/// Minutes of which nothing is known, and those in which the box snoozed, are shaded.
pub(crate) fn bars(
    html: &mut Html,
    label: &'static str,
    day: &[Minute],
    now: u32,
    parts: &[Part],
    max: Option<u64>,
) {
    let bars: Vec<Bar> =
        bars_of(day, now).map(|(x, minutes)| Bar::of(x, &minutes, parts)).collect();
    let highest = bars.iter().map(|bar| bar.values.iter().sum()).max().unwrap_or(0);
    let max = max.unwrap_or_else(|| round_up(highest));
    frame(html, label, now, max);
    for bar in &bars {
        if let Some(shade) = bar.shade {
            html.raw("<rect class=\"").raw(shade).raw("\"");
            rect(html, bar.x, TOP, BAR_WIDTH, HEIGHT);
        }
        let mut below = 0;
        for ((class, _), &value) in parts.iter().zip(&bar.values).filter(|(_, value)| **value > 0) {
            let (top, bottom) = (y(below + value, max), y(below, max));
            html.raw("<rect class=\"").raw(class).raw("\"");
            rect(html, bar.x, top, BAR_WIDTH - 1, (bottom - top).max(1));
            below += value;
        }
    }
    html.raw("</svg>\n");
}

/// One bar of a chart.
struct Bar {
    x: u64,
    values: Vec<u64>,
    shade: Option<&'static str>,
}

impl Bar {
    fn of(x: u64, minutes: &[Minute], parts: &[Part]) -> Self {
        let shade = if minutes.iter().all(|minute| !minute.answered) {
            Some("unknown")
        } else if minutes.iter().any(|minute| minute.snoozing) {
            Some("snoozed")
        } else {
            None
        };
        Self { x, values: parts.iter().map(|(_, value)| value(minutes)).collect(), shade }
    }
}

/// Where each bar stands, and its minutes, oldest first.
fn bars_of(day: &[Minute], now: u32) -> impl Iterator<Item = (u64, Vec<Minute>)> + '_ {
    let last = now / BAR_MINUTES;
    let first = last.saturating_sub(MINUTES / BAR_MINUTES - 1);
    (first..=last).zip(0..).map(move |(bar, place)| {
        let minutes = day.iter().filter(|minute| minute.at / BAR_MINUTES == bar).copied().collect();
        (LEFT + place * BAR_WIDTH, minutes)
    })
}

fn frame(html: &mut Html, label: &'static str, now: u32, max: u64) {
    html.raw("<svg class=\"chart\" viewBox=\"0 0 ").number(RIGHT + 10).raw(" ").number(TIMES + 6);
    html.raw("\" role=\"img\" aria-label=\"").raw(label).raw("\">");
    for step in 0..=STEPS {
        let value = max / STEPS * step;
        html.raw("<path class=\"grid\" d=\"M").number(LEFT).raw(" ").number(y(value, max));
        html.raw("H").number(RIGHT).raw("\"/>");
        text(html, LEFT - 8, y(value, max) + 4, "end");
        html.number(value).raw("</text>");
    }
    let first = (now / BAR_MINUTES).saturating_sub(MINUTES / BAR_MINUTES - 1) * BAR_MINUTES;
    let first_tick = first.div_ceil(TICK_MINUTES) * TICK_MINUTES;
    for tick in (first_tick..=now).step_by(TICK_MINUTES.try_into().unwrap_or(1)) {
        let bar = u64::from((tick - first) / BAR_MINUTES);
        text(html, (LEFT + bar * BAR_WIDTH).clamp(LEFT + 16, RIGHT - 16), TIMES, "middle");
        html.text(&format!("{:02}:{:02}", tick / 60 % 24, tick % 60)).raw("</text>");
    }
}

fn text(html: &mut Html, x: u64, y: u64, anchor: &'static str) {
    html.raw("<text x=\"").number(x).raw("\" y=\"").number(y);
    html.raw("\" text-anchor=\"").raw(anchor).raw("\">");
}

fn rect(html: &mut Html, x: u64, y: u64, width: u64, height: u64) {
    html.raw(" x=\"").number(x).raw("\" y=\"").number(y);
    html.raw("\" width=\"").number(width).raw("\" height=\"").number(height).raw("\"/>");
}

fn y(value: u64, max: u64) -> u64 {
    BASE - HEIGHT.saturating_mul(value.min(max)) / max.max(1)
}

/// A round number that is not below `value`, and can be quartered.
fn round_up(value: u64) -> u64 {
    let mut unit = STEPS;
    loop {
        for factor in [1, 2, 3, 4, 5, 6, 8] {
            if unit.saturating_mul(factor) >= value {
                return unit.saturating_mul(factor);
            }
        }
        unit = unit.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Count;

    const MAILS: Part = ("mails", |minutes| minutes.iter().map(|m| m.count(Count::Mails)).sum());

    fn drawn(day: &[Minute], now: u32) -> String {
        let mut html = Html::default();
        bars(&mut html, "Mails", day, now, &[MAILS], None);
        html.into_string()
    }

    #[test]
    fn a_bar_is_of_ten_minutes_and_the_day_has_its_place() {
        let minute = |at, mails| {
            let mut minute = Minute { at, answered: true, ..Minute::default() };
            minute.counts[0] = mails;
            minute
        };
        let now = 29_000_009;
        let day = [minute(now - 1439, 3), minute(now - 1, 20), minute(now, 21)];
        let text = drawn(&day, now);
        assert_eq!(text.matches("class=\"mails\"").count(), 2, "{text}");
        // 41 of 80.
        assert!(text.contains(&format!("class=\"mails\" x=\"{}\" y=\"54\"", RIGHT - 6)), "{text}");
        assert!(text.contains("class=\"mails\" x=\"44\""), "{text}");
        // Of the rest nothing is known.
        assert_eq!(text.matches("class=\"unknown\"").count(), 142);
        assert_eq!(text.matches("text-anchor=\"middle\"").count(), 8);
    }

    #[test]
    fn the_scale_is_round_and_never_empty() {
        let rounded = [0, 4, 5, 9, 13, 21, 41, 401, 1_201].map(round_up);
        assert_eq!(rounded, [4, 4, 8, 12, 16, 24, 80, 800, 1_600]);
        assert_eq!(round_up(u64::MAX), u64::MAX);
        assert_eq!([y(0, 40), y(40, 40), y(u64::MAX, 40), y(1, 0)], [BASE, TOP, TOP, BASE]);
    }

    #[test]
    fn a_box_in_1970_has_a_chart() {
        assert!(drawn(&[], 0).ends_with("</svg>\n"));
        let minute = Minute { at: 3, snoozing: true, answered: true, ..Minute::default() };
        assert!(drawn(&[minute], 5).contains("class=\"snoozed\""));
    }
}
