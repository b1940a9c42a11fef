//! Charts as SVG that is read on light and on dark ground, drawn here: lines over time, and bars.

use std::fmt::Write as _;

/// Size of a picture, and of the margins round what is drawn, in pixels.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 46.0;
/// Lines across, at least.
const TICKS: f64 = 5.0;
/// Height of a bar with its room.
const BAR_HEIGHT: f64 = 20.0;
/// Names beside bars.
const NAMES_WIDTH: f64 = 250.0;

/// Colours on light and on dark ground. `s0` is what the picture is about.
const STYLE: &str = "\
svg{font:13px sans-serif;background:#fff}text{fill:#24292f}.t{font-weight:bold;font-size:15px}\
.g{stroke:#d0d7de;stroke-width:1}.m{stroke:#8c959f;stroke-dasharray:4 3}.q{fill:#57606a}\
path{fill:none;stroke-width:1.6}.s0{stroke:#cf222e;stroke-width:2.6}.s1{stroke:#0969da}\
.s2{stroke:#1a7f37}.s3{stroke:#8250df}.s4{stroke:#9a6700}.sx{stroke:#afb8c1;stroke-width:1}\
rect.s0{fill:#cf222e;stroke:none}rect.s1{fill:#0969da;stroke:none}rect.s2{fill:#8c959f;stroke:none}\
@media(prefers-color-scheme:dark){svg{background:#0d1117}text{fill:#e6edf3}.g{stroke:#30363d}\
.m{stroke:#8b949e}.q{fill:#9198a1}.s0{stroke:#ff7b72}.s1{stroke:#58a6ff}.s2{stroke:#3fb950}\
.s3{stroke:#bc8cff}.s4{stroke:#d29922}.sx{stroke:#484f58}rect.s0{fill:#ff7b72}rect.s1{fill:#58a6ff}\
rect.s2{fill:#6e7681}}";

/// Lines over time.
#[derive(Debug)]
pub struct Lines<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What stands on the axes, with units.
    pub across: &'a str,
    /// See `across`.
    pub upward: &'a str,
    /// Each with its name, if it is in the legend, and its class of [`STYLE`].
    pub series: Vec<Line>,
    /// What happened when.
    pub marks: Vec<(f64, String)>,
}

/// One line.
#[derive(Debug)]
pub struct Line {
    /// In the legend; none: not there.
    pub name: Option<String>,
    /// Its colour.
    pub class: &'static str,
    /// Its points, in order.
    pub points: Vec<(f64, f64)>,
}

impl Lines<'_> {
    /// The picture.
    #[must_use]
    pub fn draw(&self) -> String {
        let points = || self.series.iter().flat_map(|line| &line.points);
        let from = points().map(|point| point.0).fold(f64::MAX, f64::min);
        let until = points().map(|point| point.0).fold(f64::MIN, f64::max);
        let most = points().map(|point| point.1).fold(0.0, f64::max);
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let x = |at: f64| LEFT + (at - from) / (until - from).max(1e-9) * width;
        let step = step(most.max(1e-9));
        let top = (most / step).ceil().max(1.0) * step;
        let y = |value: f64| TOP + height - value / top * height;
        let mut body = title(self.title);
        let mut value = 0.0;
        while value <= top + step / 2.0 {
            grid(&mut body, (LEFT, y(value)), (LEFT + width, y(value)));
            text(&mut body, "q", LEFT - 8.0, y(value) + 4.0, "end", &number(value));
            value += step;
        }
        let across_step = self::step(until - from);
        let mut at = (from / across_step).ceil() * across_step;
        while at <= until + 1e-9 {
            text(&mut body, "q", x(at), TOP + height + 18.0, "middle", &number(at));
            at += across_step;
        }
        text(&mut body, "q", LEFT + width, TOP + height + 36.0, "end", self.across);
        text(&mut body, "q", LEFT - 50.0, TOP - 8.0, "start", self.upward);
        for (at, what) in &self.marks {
            let at = x(*at);
            let _ = writeln!(
                body,
                "<line class=\"m\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>",
                TOP + height
            );
            text(&mut body, "q", at + 4.0, TOP + 12.0, "start", what);
        }
        let mut legend = TOP + 10.0;
        for line in &self.series {
            path(&mut body, line, &x, &y);
            let Some(name) = &line.name else { continue };
            let (x1, x2) = (LEFT + width + 14.0, LEFT + width + 34.0);
            let _ = writeln!(body, "<path class=\"{}\" d=\"M{x1} {legend}H{x2}\"/>", line.class);
            text(&mut body, "", x2 + 6.0, legend + 4.0, "start", name);
            legend += 20.0;
        }
        picture(HEIGHT, &body)
    }
}

/// Groups of bars with their figures beside them.
#[derive(Debug)]
pub struct Bars<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What is measured, with its unit.
    pub unit: &'a str,
    /// Powers of ten are as far apart as each other.
    pub logarithmic: bool,
    /// Name of each class: what a bar of it means.
    pub classes: &'a [(&'static str, &'a str)],
    /// A name, and a figure for each class.
    pub groups: Vec<(String, Vec<f64>)>,
}

impl Bars<'_> {
    /// The picture.
    #[must_use]
    pub fn draw(&self) -> String {
        let figures = || self.groups.iter().flat_map(|(_, figures)| figures.iter().copied());
        let place = |figure: f64| if self.logarithmic { figure.max(1.0).log10() } else { figure };
        let most = figures().map(place).fold(1e-9, f64::max);
        let width = WIDTH - NAMES_WIDTH - 90.0;
        let mut body = title(self.title);
        let mut left = 16.0;
        for (class, name) in self.classes {
            let _ = writeln!(
                body,
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\"/>",
                TOP - 6.0
            );
            text(&mut body, "q", left + 18.0, TOP + 5.0, "start", name);
            left += 36.0 + 7.5 * name.chars().count() as f64;
        }
        text(&mut body, "q", WIDTH - 16.0, TOP + 5.0, "end", self.unit);
        let mut top = TOP + 22.0;
        for (name, figures) in &self.groups {
            text(&mut body, "", NAMES_WIDTH - 10.0, top + 13.0, "end", name);
            for (figure, (class, _)) in figures.iter().zip(self.classes) {
                let length = (place(*figure) / most * width).max(1.0);
                let _ = writeln!(
                    body,
                    "<rect class=\"{class}\" x=\"{NAMES_WIDTH}\" y=\"{top:.1}\" \
                     width=\"{length:.1}\" height=\"14\"/>"
                );
                let end = NAMES_WIDTH + length + 6.0;
                text(&mut body, "q", end, top + 12.0, "start", &number(*figure));
                top += BAR_HEIGHT - 3.0;
            }
            top += 8.0;
        }
        picture(top + 8.0, &body)
    }
}

fn picture(height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">\n<style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn title(words: &str) -> String {
    let mut body = String::new();
    text(&mut body, "t", 16.0, 22.0, "start", words);
    body
}

fn text(body: &mut String, class: &str, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn grid(body: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        body,
        "<line class=\"g\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn path(body: &mut String, line: &Line, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    let _ = write!(body, "<path class=\"{}\" d=\"", line.class);
    for (number, (at, value)) in line.points.iter().enumerate() {
        let letter = if number == 0 { 'M' } else { 'L' };
        let _ = write!(body, "{letter}{:.1} {:.1}", x(*at), y(*value));
    }
    body.push_str("\"/>\n");
}

/// A round step that divides a length into some five.
fn step(length: f64) -> f64 {
    let rough = length / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough).unwrap_or(10.0);
    factor * power
}

/// A figure with as many digits as mean something.
#[must_use]
pub fn number(figure: f64) -> String {
    match figure.abs() {
        ..1e-9 => "0".to_owned(),
        ..10.0 => {
            let written = format!("{figure:.2}");
            written.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        ..100.0 => {
            let written = format!("{figure:.1}");
            written.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{figure:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_within_the_picture_with_units_and_marks() {
        let line = Line {
            name: Some("a < b".to_owned()),
            class: "s0",
            points: vec![(0.0, 0.0), (10.0, 37.0), (20.0, 12.0)],
        };
        let marks = vec![(10.0, "gone".to_owned())];
        let lines =
            Lines { title: "t", across: "minutes", upward: "sessions", series: vec![line], marks };
        let svg = lines.draw();
        for words in [">minutes<", ">sessions<", ">gone<", "a &lt; b", ">40<", "prefers-color"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(svg.contains(&format!("M{LEFT:.1} {:.1}", HEIGHT - BOTTOM)), "zero is the ground");
        assert_eq!(svg.matches("<path").count(), 2);
    }

    #[test]
    fn bars_have_their_figures() {
        let bars = Bars {
            title: "t",
            unit: "ms",
            logarithmic: true,
            classes: &[("s0", "median"), ("s1", "longest")],
            groups: vec![("one".to_owned(), vec![20.0, 2_000.0])],
        };
        let svg = bars.draw();
        assert!(svg.contains(">20<") && svg.contains(">2000<"));
        assert_eq!(svg.matches("<rect").count(), 4);
    }

    #[test]
    fn steps_are_round() {
        assert_eq!((step(37.0), step(1_000.0), step(0.3)), (10.0, 200.0, 0.1));
        assert_eq!(
            [number(0.0), number(1.5), number(37.25), number(1234.5)],
            ["0", "1.5", "37.2", "1234"]
        );
    }
}
