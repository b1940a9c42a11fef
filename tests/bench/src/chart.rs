//! The results as a picture: bars of mails a second, dots of latency, both on scales of powers of ten.

use std::fmt::Write as _;

use crate::{
    arm::Arm,
    matrix::{Cell, KB_10, MB_1},
    record::{Results, Summary},
    stats::Spread,
};

/// Width of the picture, and of the names to the left, in pixels.
const WIDTH: f64 = 960.0;
const NAMES_WIDTH: f64 = 210.0;
/// Room for the numbers to the right of the bars.
const NUMBERS_WIDTH: f64 = 90.0;
/// Height of an arm's line, and of what is above and below a panel's lines.
const LINE_HEIGHT: f64 = 24.0;
const TITLE_HEIGHT: f64 = 44.0;
const SCALE_HEIGHT: f64 = 30.0;
/// Ours stands out.
const OURS: &str = "#0b6e4f";
const OTHERS: &str = "#8a94a0";

/// The picture, as SVG.
pub(crate) fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut top = 0.0;
    let cases =
        |wanted: [Cell; 2]| wanted.into_iter().find(|cell| results.plan.smtp.contains(cell));
    for wanted in [
        [Cell::new(KB_10, 20, 20), Cell::new(KB_10, 20, 1)],
        [Cell::new(MB_1, 20, 20), Cell::new(MB_1, 20, 1)],
    ] {
        if let Some(cell) = cases(wanted) {
            top = bars(&mut body, top, cell, &summaries(results, cell));
        }
    }
    if let Some(cell) = cases([Cell::new(KB_10, 1, 20), Cell::new(KB_10, 1, 1)]) {
        top = dots(&mut body, top, cell, &summaries(results, cell));
    }
    svg(&body, top)
}

/// A picture of what was drawn, and how high that is.
pub(crate) fn svg(body: &str, top: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" width=\"{WIDTH}\" \
         height=\"{top}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{top}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn summaries(results: &Results, cell: Cell) -> Vec<Summary> {
    Arm::ALL.into_iter().filter_map(|arm| results.summary(arm, cell)).collect()
}

/// A scale of whole powers of ten that holds some values.
#[derive(Debug, PartialEq)]
struct Scale {
    from: i32,
    to: i32,
}

impl Scale {
    /// Values of zero and below are left out: they have no place on it.
    fn over(values: impl IntoIterator<Item = f64>) -> Self {
        let (mut from, mut to) = (i32::MAX, i32::MIN);
        for value in values {
            // Found by trying: a logarithm would be rounded.
            let Some(power) = (-12..=12).rev().find(|power| 10_f64.powi(*power) <= value) else {
                continue;
            };
            from = from.min(power);
            to = to.max(power + 1);
        }
        if from > to { Self { from: 0, to: 1 } } else { Self { from, to } }
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let lowest = 10_f64.powi(self.from);
        let decades = f64::from(self.to - self.from);
        ((value.max(lowest) / lowest).log10() / decades).min(1.0)
    }

    /// The powers of ten.
    fn marks(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|power| 10_f64.powi(power))
    }
}

/// A figure that is drawn.
#[derive(Debug)]
pub(crate) struct Bar<'a> {
    pub(crate) name: &'a str,
    pub(crate) spread: Spread,
    /// Ours stand out.
    pub(crate) is_ours: bool,
}

fn bars(body: &mut String, top: f64, cell: Cell, summaries: &[Summary]) -> f64 {
    let title = format!("SMTP, {}: mails a second, median, least and most", case_name(cell));
    let bars = summaries.iter().map(|summary| Bar {
        name: summary.arm.title(),
        spread: summary.mails_per_second,
        is_ours: is_ours(summary.arm),
    });
    panel(body, top, &title, &bars.collect::<Vec<_>>())
}

/// Draws some bars under a title; gives where they end.
pub(crate) fn panel(body: &mut String, top: f64, title: &str, bars: &[Bar<'_>]) -> f64 {
    let scale = Scale::over(bars.iter().map(|bar| bar.spread.median));
    let names: Vec<&str> = bars.iter().map(|bar| bar.name).collect();
    let bottom = frame(body, top, title, &names, &scale);
    for (index, bar) in bars.iter().enumerate() {
        let y = line_top(top, index);
        let rate = bar.spread;
        let (start, end) = (x(&scale, 0.0), x(&scale, rate.median));
        let _ = writeln!(
            body,
            "<rect x=\"{start:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{}\"/>",
            y + 4.0,
            end - start,
            colour(bar.is_ours)
        );
        let (min, max, middle) = (x(&scale, rate.min), x(&scale, rate.max), y + 12.0);
        let _ = writeln!(
            body,
            "<line x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" \
             stroke=\"#222222\"/>"
        );
        let number = if rate.median < 100.0 {
            format!("{:.1}", rate.median)
        } else {
            format!("{:.0}", rate.median)
        };
        label(body, end.max(max) + 6.0, y + 17.0, "start", &number);
    }
    bottom
}

fn dots(body: &mut String, top: f64, cell: Cell, summaries: &[Summary]) -> f64 {
    let title = format!(
        "SMTP, {}: end of data to \"250\", ms; p50 filled, p95 and p99 open",
        case_name(cell)
    );
    let ms = |summary: &Summary| {
        [summary.p50_us, summary.p95_us, summary.p99_us].map(|us| us.median / 1e3)
    };
    let scale = Scale::over(summaries.iter().flat_map(ms));
    let names: Vec<&str> = summaries.iter().map(|summary| summary.arm.title()).collect();
    let bottom = frame(body, top, &title, &names, &scale);
    for (index, summary) in summaries.iter().enumerate() {
        let y = line_top(top, index) + 12.0;
        let places = ms(summary).map(|ms| x(&scale, ms));
        let colour = colour(is_ours(summary.arm));
        let _ = writeln!(
            body,
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\"/>",
            places[0], places[2]
        );
        for (place, fill) in places.into_iter().zip([colour, "#ffffff", "#ffffff"]) {
            let _ = writeln!(
                body,
                "<circle cx=\"{place:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{fill}\" stroke=\"{colour}\"/>"
            );
        }
        let number = format!("{:.2}", summary.p50_us.median / 1e3);
        label(body, places[2] + 10.0, y + 5.0, "start", &number);
    }
    bottom
}

/// Title, names and scale of a panel; gives where it ends.
fn frame(body: &mut String, top: f64, title: &str, names: &[&str], scale: &Scale) -> f64 {
    let lines = line_top(top, names.len());
    let _ = writeln!(
        body,
        "<text x=\"12\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
        top + 26.0,
        escaped(title)
    );
    for mark in scale.marks() {
        let x = x(scale, mark);
        let (start, end) = (line_top(top, 0), lines + 4.0);
        let _ = writeln!(
            body,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{start:.1}\" y2=\"{end:.1}\" stroke=\"#dde1e6\"/>"
        );
        label(body, x, lines + 18.0, "middle", &mark_name(mark));
    }
    for (index, name) in names.iter().enumerate() {
        let y = line_top(top, index) + 17.0;
        label(body, NAMES_WIDTH - 10.0, y, "end", name);
    }
    lines + SCALE_HEIGHT
}

fn label(body: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escaped(text);
    let _ =
        writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn case_name(cell: Cell) -> String {
    let sessions = if cell.sessions == 1 { "session" } else { "sessions" };
    let mails = if cell.mails == 1 { "mail" } else { "mails" };
    let size = crate::matrix::size_name(cell.size);
    format!("{size}, {} {sessions} of {} {mails}", cell.sessions, cell.mails)
}

/// 0.01, 1, 1000.
fn mark_name(mark: f64) -> String {
    let digits = if mark < 0.005 {
        3
    } else if mark < 0.05 {
        2
    } else {
        usize::from(mark < 0.5)
    };
    format!("{mark:.digits$}")
}

fn line_top(top: f64, index: usize) -> f64 {
    top + TITLE_HEIGHT + LINE_HEIGHT * index as f64
}

fn x(scale: &Scale, value: f64) -> f64 {
    NAMES_WIDTH + (WIDTH - NAMES_WIDTH - NUMBERS_WIDTH) * scale.place(value)
}

fn is_ours(arm: Arm) -> bool {
    matches!(arm, Arm::Avr | Arm::AvrClamd | Arm::Chain)
}

fn colour(is_ours: bool) -> &'static str {
    if is_ours { OURS } else { OTHERS }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::results;

    /// Every element is closed, in order; gives their names.
    fn elements(svg: &str) -> Vec<String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for tag in svg.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap();
            let name = tag.trim_matches('/').split_whitespace().next().unwrap().to_owned();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            all.push(name.clone());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} are not closed");
        all
    }

    #[test]
    fn the_picture_is_well_formed_and_has_every_arm_in_every_panel() {
        let svg = draw(&results(|arm, _| if arm == Arm::Clamsmtp { 20.5 } else { 4_000.0 }));
        let all = elements(&svg);
        let count = |name: &str| all.iter().filter(|element| *element == name).count();
        assert_eq!(count("rect"), 1 + 2 * Arm::ALL.len());
        assert_eq!(count("circle"), 3 * Arm::ALL.len());
        for arm in Arm::ALL {
            assert_eq!(svg.matches(&format!(">{}<", arm.title())).count(), 3, "{arm:?}");
        }
        assert!(svg.contains(">20.5<") && svg.contains(">4000<"));
    }

    #[test]
    fn without_results_there_is_an_empty_picture() {
        let mut nothing = results(|_, _| 1.0);
        nothing.smtp.clear();
        nothing.plan.smtp.clear();
        assert_eq!(elements(&draw(&nothing)), ["svg", "rect"]);
    }

    #[test]
    fn a_scale_is_of_whole_powers_of_ten() {
        let scale = Scale::over([20.0, 4_000.0]);
        assert_eq!(scale, Scale { from: 1, to: 4 });
        assert_eq!(scale.marks().collect::<Vec<_>>(), [10.0, 100.0, 1_000.0, 10_000.0]);
        for (value, place) in [(10.0, 0.0), (10_000.0, 1.0), (0.0, 0.0), (1e9, 1.0)] {
            assert!((scale.place(value) - place).abs() < 1e-9, "{value}");
        }
        assert!((Scale { from: 0, to: 2 }.place(10.0) - 0.5).abs() < 1e-9);
        assert_eq!(Scale::over([1_000.0]), Scale { from: 3, to: 4 });
        assert_eq!(Scale::over([0.0, -1.0]), Scale { from: 0, to: 1 });
    }

    #[test]
    fn marks_and_texts_are_written_for_people() {
        let marks = [0.001, 0.01, 0.1, 1.0, 1_000.0].map(mark_name);
        assert_eq!(marks, ["0.001", "0.01", "0.1", "1", "1000"]);
        assert_eq!(escaped("a < b & c"), "a &lt; b &amp; c");
    }
}
