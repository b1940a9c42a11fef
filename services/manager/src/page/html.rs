//! The page's HTML.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{View, chart, state_of};
use crate::fleet::ProxyStatus;
use crate::history::{SPAN_S, Verdicts};

/// How many kinds of colour there are; further proxies take them again.
const COLOURS: usize = 8;
/// Shares are of what was assigned in this time, in seconds.
const SHARE_SPAN_S: u64 = 300;

/// The whole page.
pub(super) fn page(view: &View) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>AVR manager {name}</title>\n\
         <link rel=\"icon\" href=\"/icon.svg\">\n\
         <link rel=\"stylesheet\" href=\"/style.css\">\n\
         <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n\
         <script src=\"/live.js\" defer></script>\n</head>\n\
         <body>\n<main>\n{content}</main>\n</body>\n</html>\n",
        name = escape(&view.name),
        content = content(view),
    )
}

/// What is in the page, and sent anew.
pub(super) fn content(view: &View) -> String {
    let mut out = String::new();
    header(&mut out, view);
    tiles(&mut out, view);
    sessions(&mut out, view);
    table(&mut out, view);
    verdicts(&mut out, view);
    out.push_str(
        "<footer><a href=\"/metrics\">metrics</a> · <a href=\"/readyz\">readiness</a> · \
         times are UTC</footer>\n",
    );
    out
}

/// Text that cannot become anything else, in HTML and in its attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in telemetry::harmless(text.as_bytes(), telemetry::PEER_STRING_BYTES_MAX).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The class that gives a proxy its colour: by its place among those shown.
pub(super) fn colour(place: usize) -> String {
    format!("c{}", place % COLOURS)
}

/// `14:05` of a time in seconds since 1970.
pub(super) fn hour_minute(at_s: u64) -> String {
    format!("{:02}:{:02}", at_s / 3_600 % 24, at_s / 60 % 60)
}

/// Every proxy that the page shows in colour: those there are, then those the history knows.
pub(super) fn shown(view: &View) -> Vec<SocketAddr> {
    let mut shown: Vec<SocketAddr> = view.proxies.iter().map(|proxy| proxy.local).collect();
    for point in view.points.iter().flat_map(|point| &point.proxies) {
        if point.live > 0 && !shown.contains(&point.proxy) {
            shown.push(point.proxy);
        }
    }
    shown
}

fn header(out: &mut String, view: &View) {
    let (class, state) = match (view.stopping, view.drained) {
        (true, _) => ("warn", "stopping"),
        (_, true) => ("warn", "site drained"),
        _ => ("good", "serving"),
    };
    let _ = writeln!(
        out,
        "<header><h1>AVR manager <span class=\"dim\">{}</span></h1>\
         <span class=\"pill {class}\">{state}</span>\
         <span class=\"when\">{}:{:02} UTC</span></header>",
        escape(&view.name),
        hour_minute(view.now_s),
        view.now_s % 60,
    );
}

fn tiles(out: &mut String, view: &View) {
    let live: u64 = view.proxies.iter().map(|proxy| u64::from(proxy.live)).sum();
    let up = view.proxies.iter().filter(|proxy| state_of(proxy).class == "good").count();
    let hour = last_hour(view);
    let tile = |out: &mut String, name: &str, value: String, more: String| {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value} <small>{more}</small></dd></div>");
    };
    out.push_str("<dl class=\"tiles\">");
    tile(out, "Sessions", grouped(live), String::new());
    tile(out, "Proxies up", up.to_string(), format!("of {}", view.proxies.len()));
    tile(out, "Boxes", view.boxes.to_string(), "connected".to_owned());
    tile(
        out,
        "Assigned",
        grouped(view.totals.assignments),
        format!("{} busy", grouped(view.totals.busy)),
    );
    tile(out, "Tickets refused", grouped(view.totals.denied), String::new());
    tile(
        out,
        "Mails, last hour",
        grouped(hour.sum()),
        format!("{} infected", grouped(hour.infected)),
    );
    out.push_str("</dl>\n");
}

fn sessions(out: &mut String, view: &View) {
    out.push_str("<section><h2>Sessions by proxy <small>the last hour</small></h2>\n");
    chart::sessions(out, view);
    out.push_str("<ul class=\"legend\">");
    for (place, proxy) in shown(view).iter().enumerate() {
        let _ = write!(out, "<li>{}{}</li>", swatch(&colour(place)), escape(&proxy.to_string()));
    }
    out.push_str("</ul></section>\n");
}

fn swatch(class: &str) -> String {
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 10 10\" aria-hidden=\"true\">\
         <rect class=\"{class}\" width=\"10\" height=\"10\" rx=\"2\"/></svg>"
    )
}

fn table(out: &mut String, view: &View) {
    let _ = write!(
        out,
        "<section><h2>Proxies <small>chosen by {}</small></h2><div class=\"scroll\"><table>\
         <thead><tr><th>Proxy</th><th>State</th><th class=\"n\">Sessions</th>\
         <th class=\"n\">Load</th><th>Share of the last five minutes</th></tr></thead><tbody>",
        view.selection.name()
    );
    let recent: Vec<u64> = view.proxies.iter().map(|proxy| recently_chosen(view, proxy)).collect();
    let all_recent: u64 = recent.iter().sum();
    let all_weight: u32 = view.proxies.iter().map(|proxy| proxy.weight).sum();
    for ((place, proxy), recent) in view.proxies.iter().enumerate().zip(recent) {
        let state = state_of(proxy);
        let share = percent(recent, all_recent);
        let fair = percent(proxy.weight.into(), all_weight.into());
        let _ = write!(
            out,
            "<tr><td>{swatch}{local}<br><span class=\"public\">{public}</span></td>\
             <td><span class=\"pill {class}\">{state}</span></td>\
             <td class=\"n\">{live}</td><td class=\"n\">{load}</td>\
             <td class=\"share\">{bar}<small>{share} % now, {fair} % by the table</small></td></tr>",
            swatch = swatch(&colour(place)),
            local = escape(&proxy.local.to_string()),
            public = escape(&proxy.public.to_string()),
            class = state.class,
            state = escape(&state.text),
            live = grouped(proxy.live.into()),
            load = load(proxy.report.load_average_milli),
            bar = bar(&colour(place), share, fair),
        );
    }
    out.push_str("</tbody></table></div></section>\n");
}

/// What part is, with a mark where it should be.
fn bar(class: &str, share: u64, fair: u64) -> String {
    format!(
        "<svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{share} %\"><rect class=\"track\" width=\"100\" height=\"10\"/>\
         <rect class=\"{class}\" width=\"{share}\" height=\"10\"/>\
         <path class=\"mark\" vector-effect=\"non-scaling-stroke\" d=\"M{fair} 0V10\"/></svg>"
    )
}

fn verdicts(out: &mut String, view: &View) {
    let hour = last_hour(view);
    out.push_str("<section><h2>Mails by verdict <small>a minute, the last hour</small></h2>\n");
    chart::verdicts(out, view);
    out.push_str("<ul class=\"legend\">");
    for (class, name, count, total) in [
        ("clean", "clean", hour.clean, view.totals.verdicts.clean),
        ("unscannable", "not scanned in full", hour.unscannable, view.totals.verdicts.unscannable),
        ("infected", "infected", hour.infected, view.totals.verdicts.infected),
    ] {
        let _ = write!(
            out,
            "<li>{}{name} {} <span class=\"dim\">· {} since the start</span></li>",
            swatch(class),
            grouped(count),
            grouped(total)
        );
    }
    out.push_str("</ul></section>\n");
}

fn last_hour(view: &View) -> Verdicts {
    let since_s = view.now_s.saturating_sub(SPAN_S);
    let points = view.points.iter().filter(|point| point.at_s > since_s);
    points.fold(Verdicts::default(), |sum, point| sum.and(&point.verdicts))
}

/// How often a proxy was named in [`SHARE_SPAN_S`].
fn recently_chosen(view: &View, proxy: &ProxyStatus) -> u64 {
    let since_s = view.now_s.saturating_sub(SHARE_SPAN_S);
    let then =
        view.points.iter().filter(|point| point.at_s >= since_s).find_map(|point| {
            point.proxies.iter().find(|p| p.proxy == proxy.local).map(|p| p.chosen)
        });
    proxy.chosen.saturating_sub(then.unwrap_or(0))
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).saturating_add(whole / 2).checked_div(whole).unwrap_or(0).min(100)
}

/// `1.25` of thousandths.
fn load(milli: u32) -> String {
    format!("{}.{:02}", milli / 1000, milli % 1000 / 10)
}

/// `12 345`, with narrow spaces that do not break.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(
            escape("<script>alert('1')</script>&\"\u{202e}\n"),
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(load(12_345), "12.34");
        assert_eq!(hour_minute(1_764_150_305), "09:45");
        assert_eq!([percent(1, 3), percent(2, 3), percent(1, 0)], [33, 67, 0]);
        assert_eq!(percent(u64::MAX, 1), 100);
    }
}
