//! The charts, as SVG that we draw.
//!
//! Coordinates are whole numbers of a fixed field; the browser scales it.

use std::fmt::Write as _;

use super::View;
use super::html::{colour, hour_minute, shown};
use crate::history::{Point, SPAN_S, Verdicts};

/// Size of a chart, and where in it things are drawn.
const WIDTH: u64 = 1_000;
const LEFT: u64 = 44;
const RIGHT: u64 = 990;
const TOP: u64 = 10;
/// From the top of the drawing to its base line.
const SESSIONS_HEIGHT: u64 = 220;
const VERDICTS_HEIGHT: u64 = 90;
/// Under the base line, for the times.
const FOOT: u64 = 24;
/// Lines across.
const STEPS: u64 = 4;
/// From one time to the next along the foot, in seconds.
const TICK_S: u64 = 600;
/// Bars are of so many seconds.
const BAR_S: u64 = 60;
/// Most corners of a chart's areas together: of a large site not every point is drawn.
const CORNERS_MAX: usize = 12_000;

/// One chart's field.
struct Field {
    now_s: u64,
    height: u64,
    /// What the top line means.
    max: u64,
}

impl Field {
    fn x(&self, at_s: u64) -> u64 {
        let since_start_s = (at_s + SPAN_S).saturating_sub(self.now_s).min(SPAN_S);
        LEFT + (RIGHT - LEFT) * since_start_s / SPAN_S
    }

    fn y(&self, value: u64) -> u64 {
        TOP + self.height - self.height * value.min(self.max) / self.max
    }

    fn base(&self) -> u64 {
        TOP + self.height
    }

    fn begin(&self, out: &mut String, label: &str) {
        let _ = write!(
            out,
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{label}\">",
            self.base() + FOOT
        );
        for step in 0..=STEPS {
            let value = self.max * step / STEPS;
            let y = self.y(value);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y}H{RIGHT}\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value}</text>",
                LEFT - 8,
                y + 4
            );
        }
        let first_s = (self.now_s.saturating_sub(SPAN_S) / TICK_S + 1) * TICK_S;
        for tick in 0..SPAN_S / TICK_S {
            let at_s = first_s + tick * TICK_S;
            let _ = write!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                self.x(at_s).clamp(LEFT + 16, RIGHT - 16),
                self.base() + 18,
                hour_minute(at_s)
            );
        }
    }
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

/// Sessions of the last hour, proxy upon proxy.
pub(super) fn sessions(out: &mut String, view: &View) {
    let shown = shown(view);
    let corners = view.points.len().saturating_mul(2 * shown.len());
    let every = corners.div_ceil(CORNERS_MAX).max(1);
    // The newest point always.
    let mut points: Vec<&Point> = view.points.iter().rev().step_by(every).collect();
    points.reverse();
    // The sums of each point, from the bottom up: a proxy's area is between two of them.
    let stacks: Vec<Vec<u64>> = points
        .iter()
        .map(|point| {
            let mut sum = 0;
            let live = |proxy| {
                point.proxies.iter().find(|p| p.proxy == proxy).map_or(0, |p| u64::from(p.live))
            };
            let sums = shown.iter().map(|&proxy| {
                sum += live(proxy);
                sum
            });
            std::iter::once(0).chain(sums).collect()
        })
        .collect();
    let top = stacks.iter().filter_map(|stack| stack.last()).max();
    let max = round_up(top.copied().unwrap_or(0));
    let field = Field { now_s: view.now_s, height: SESSIONS_HEIGHT, max };
    field.begin(out, "Sessions by proxy in the last hour");
    for place in 0..shown.len() {
        let corner = |(point, stack): (&&Point, &Vec<u64>), at: usize| {
            let value = stack.get(at).copied().unwrap_or(0);
            format!("{} {}", field.x(point.at_s), field.y(value))
        };
        let upper = points.iter().zip(&stacks).map(|pair| corner(pair, place + 1));
        let lower = points.iter().zip(&stacks).rev().map(|pair| corner(pair, place));
        let corners: Vec<String> = upper.chain(lower).collect();
        if !corners.is_empty() {
            let _ =
                write!(out, "<path class=\"{}\" d=\"M{}Z\"/>", colour(place), corners.join("L"));
        }
    }
    out.push_str("</svg>\n");
}

/// Mails of each minute of the last hour, by verdict.
pub(super) fn verdicts(out: &mut String, view: &View) {
    let bars = SPAN_S / BAR_S;
    let start_s = (view.now_s / BAR_S + 1).saturating_sub(bars) * BAR_S;
    let minutes: Vec<Verdicts> = (0..bars)
        .map(|bar| {
            let from_s = start_s + bar * BAR_S;
            let minute = from_s..from_s + BAR_S;
            let points = view.points.iter().filter(|point| minute.contains(&point.at_s));
            points.fold(Verdicts::default(), |sum, point| sum.and(&point.verdicts))
        })
        .collect();
    let max = round_up(minutes.iter().map(Verdicts::sum).max().unwrap_or(0));
    let field = Field { now_s: view.now_s, height: VERDICTS_HEIGHT, max };
    field.begin(out, "Mails by verdict in the last hour");
    for (bar, minute) in (0..bars).zip(minutes) {
        let left = LEFT + (RIGHT - LEFT) * bar / bars;
        let width = (RIGHT - LEFT) / bars - 3;
        let mut below = 0;
        for (class, count) in [
            ("clean", minute.clean),
            ("unscannable", minute.unscannable),
            ("infected", minute.infected),
        ] {
            if count == 0 {
                continue;
            }
            let above = below + count;
            let (top, bottom) = (field.y(above), field.y(below));
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{}\"/>",
                (bottom - top).max(1)
            );
            below = above;
        }
    }
    out.push_str("</svg>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_round_and_never_empty() {
        let rounded = [0, 4, 5, 9, 13, 21, 41, 401, 1_201].map(round_up);
        assert_eq!(rounded, [4, 4, 8, 12, 16, 24, 80, 800, 1_600]);
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }

    #[test]
    fn all_of_the_hour_is_in_the_field_and_nothing_beside_it() {
        let field = Field { now_s: 100_000, height: 220, max: 40 };
        assert_eq!([field.x(100_000), field.x(100_000 - SPAN_S)], [RIGHT, LEFT]);
        assert_eq!([field.x(0), field.x(u64::MAX / 2)], [LEFT, RIGHT]);
        assert_eq!([field.y(0), field.y(40), field.y(u64::MAX)], [field.base(), TOP, TOP]);
    }
}
