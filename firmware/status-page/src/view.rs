//! The page's HTML.

use std::time::Duration;

use box_console::report::{Answer, utc};
use box_console::secret::Door;
use journal::{Action, Entry, Verdict};
use quarantine::Item;
use records::bytes;

use crate::access::LoggedIn;
use crate::chart::{self, Part};
use crate::history::{Count, Minute};
use crate::html::Html;
use crate::settings::BeforeLogin;

/// The banner's labels have this many columns.
const LABEL_COLUMNS: usize = 12;

/// All that a page shows.
#[derive(Debug)]
pub(crate) struct View {
    /// Seconds since 1970.
    pub(crate) now_s: u64,
    /// What the visitor may see.
    pub(crate) shown: BeforeLogin,
    /// Lines as the console has them.
    pub(crate) banner: Vec<String>,
    /// The last day, oldest minute first.
    pub(crate) day: Vec<Minute>,
    /// The last mails, newest first; `None` where they are not to be seen.
    pub(crate) mails: Option<Answer<Vec<Entry>>>,
    /// The quarantine, newest first.
    pub(crate) quarantine: Option<Answer<Listed>>,
    /// Who looks at it.
    pub(crate) visitor: Visitor,
    /// How long the box still snoozes, in seconds.
    pub(crate) snooze_s: Option<u64>,
    /// What is wrong with the page's own settings.
    pub(crate) problem: Option<String>,
}

/// The quarantine's items, or why one cannot be opened; and how many more there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    pub(crate) items: Vec<(String, Answer<Item>)>,
    pub(crate) more: usize,
}

/// Who looks at the page.
#[derive(Debug)]
pub(crate) enum Visitor {
    /// Anybody: how one gets in, and what came of the last attempt.
    Anybody(Door, Option<String>),
    /// Who said the secret.
    LoggedIn(LoggedIn),
}

/// The whole page.
pub(crate) fn page(view: &View) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    // Who is logged in stays so only while he does something.
    if matches!(view.visitor, Visitor::Anybody(_, None)) {
        html.raw("<meta http-equiv=\"refresh\" content=\"60\">\n");
    }
    html.raw("<title>AVR mail gateway</title>\n<link rel=\"icon\" href=\"/icon.svg\">\n");
    html.raw("<link rel=\"stylesheet\" href=\"/style.css\">\n</head>\n<body>\n<main>\n");
    header(&mut html, view);
    notices(&mut html, view);
    banner(&mut html, view);
    if view.shown >= BeforeLogin::Status {
        charts(&mut html, view);
    }
    if let Visitor::LoggedIn(who) = &view.visitor {
        orders(&mut html, who, view.snooze_s);
    }
    if let Some(mails) = &view.mails {
        self::mails(&mut html, mails);
    }
    if let Some(listed) = &view.quarantine {
        quarantine(&mut html, listed, &view.visitor, view.now_s);
    }
    html.raw("<footer>Times are UTC.</footer>\n</main>\n</body>\n</html>\n");
    html.into_string()
}

fn header(html: &mut Html, view: &View) {
    html.raw("<header><h1>AVR mail gateway</h1><span class=\"when\">");
    html.text(&utc(view.now_s)).raw("</span>");
    match &view.visitor {
        Visitor::LoggedIn(who) => {
            begin_form(html, "/logout", who);
            html.raw("<button>Log out</button></form>");
        }
        Visitor::Anybody(Door::Locked, _) => {
            html.raw(
                "<form method=\"post\" action=\"/login\"><label>Secret <input type=\"password\" ",
            );
            html.raw("name=\"secret\" autocomplete=\"current-password\" required></label> ");
            html.raw("<button>Log in</button></form>");
        }
        Visitor::Anybody(door, _) => {
            html.raw("<span class=\"dim\">");
            match door {
                Door::Open => html.raw("No secret is set: set one at the console to log in here."),
                Door::Early(_) => html.raw("The box has only just started: log in in a minute."),
                _ => html.raw("The secret cannot be checked: see the console."),
            };
            html.raw("</span>");
        }
    }
    html.raw("</header>\n");
}

fn notices(html: &mut Html, view: &View) {
    let notice = match &view.visitor {
        Visitor::LoggedIn(who) => &who.notice,
        Visitor::Anybody(_, notice) => notice,
    };
    for text in [notice, &view.problem].into_iter().flatten() {
        html.raw("<p class=\"notice\">").text(text).raw("</p>\n");
    }
}

/// The console's lines: a label, and what is to be said.
fn banner(html: &mut Html, view: &View) {
    html.raw("<section><h2>The box</h2>\n<dl>");
    for line in &view.banner {
        let (label, text) = line.split_at_checked(LABEL_COLUMNS).unwrap_or(("", line));
        let loud = ["PROBLEM", "failure", "mode", "bridge"].contains(&label.trim());
        html.raw(if loud { "<dt class=\"bad\">" } else { "<dt>" }).text(label.trim());
        html.raw("</dt><dd>").text(text).raw("</dd>\n");
    }
    html.raw("</dl></section>\n");
}

fn charts(html: &mut Html, view: &View) {
    fn sum(minutes: &[Minute], count: Count) -> u64 {
        minutes.iter().map(|minute| minute.count(count)).sum()
    }
    const MAILS: &[Part] = &[("c0", |m| sum(m, Count::Mails) + sum(m, Count::Unread))];
    const VERDICTS: &[Part] = &[
        ("good", |m| {
            let found = sum(m, Count::Infected) + sum(m, Count::Unscannable);
            sum(m, Count::Mails).saturating_sub(found)
        }),
        ("warn", |m| sum(m, Count::Unscannable)),
        ("bad", |m| sum(m, Count::Infected)),
        ("c2", |m| sum(m, Count::Unread)),
    ];
    const SHARE: &[Part] = &[("good", |m| {
        let scanned = sum(m, Count::Scanned);
        let all = scanned + sum(m, Count::Tls) + sum(m, Count::UnreadSessions);
        (100 * scanned).checked_div(all).unwrap_or(0)
    })];
    const ROUTE: &[Part] = &[
        ("c0", |m| sum(m, Count::Relay)),
        ("c1", |m| sum(m, Count::Direct)),
        ("bad", |m| sum(m, Count::Refused)),
    ];
    let now = u32::try_from(view.now_s / 60).unwrap_or(u32::MAX);
    let mut section = |title: &'static str, what: &'static str, parts, max, legend: &[_]| {
        html.raw("<section><h2>").raw(title).raw(" <small>").raw(what).raw("</small></h2>\n");
        chart::bars(html, title, &view.day, now, parts, max);
        html.raw("<ul class=\"legend\">");
        let shades = [("unknown", "gateway not seen"), ("snoozed", "snoozing")];
        for (class, name) in legend.iter().copied().chain(shades) {
            html.raw("<li><svg class=\"swatch\" viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"");
            html.raw(class).raw("\" width=\"10\" height=\"10\"/></svg>").raw(name).raw("</li>");
        }
        html.raw("</ul></section>\n");
    };
    section("Mail", "mails in ten minutes, the last day", MAILS, None, &[("c0", "mails")]);
    let legend =
        [("good", "clean"), ("warn", "not scanned in full"), ("bad", "infected"), ("c2", "unread")];
    section("Verdicts", "of these mails", VERDICTS, None, &legend);
    let legend = [("good", "read to the end")];
    section("Scanned share", "of the sessions that ended, in percent", SHARE, Some(100), &legend);
    let legend = [("c0", "by relay site"), ("c1", "direct"), ("bad", "server not reached")];
    section("Route", "sessions in ten minutes", ROUTE, None, &legend);
}

fn orders(html: &mut Html, who: &LoggedIn, snooze_s: Option<u64>) {
    html.raw(
        "<section><h2>Snooze <small>new connections stay on the bridge, unscanned</small></h2>\n",
    );
    match snooze_s {
        Some(seconds) => {
            html.raw("<p class=\"bad\">Snoozing for another ").number(seconds.div_ceil(60));
            html.raw(" min.</p>\n");
            begin_form(html, "/resume", who);
            html.raw("<button>Scan again</button></form>");
        }
        None => {
            begin_form(html, "/snooze", who);
            html.raw("<select name=\"minutes\" aria-label=\"How long\"><option value=\"10\">10 min</option>");
            html.raw(
                "<option value=\"30\">30 min</option><option value=\"120\">2 h</option></select> ",
            );
            html.raw("<button>Snooze</button></form>");
        }
    }
    html.raw("</section>\n");
}

fn mails(html: &mut Html, mails: &Answer<Vec<Entry>>) {
    html.raw("<section><h2>Mails <small>the last hundred, newest first</small></h2>\n");
    match mails {
        Err(problem) => {
            html.raw("<p class=\"bad\">").text(problem).raw("</p>");
        }
        Ok(mails) if mails.is_empty() => {
            html.raw("<p class=\"dim\">There was none yet.</p>");
        }
        Ok(mails) => mails.iter().for_each(|entry| mail(html, entry)),
    }
    html.raw("</section>\n");
}

fn mail(html: &mut Html, entry: &Entry) {
    let class = match (entry.verdict, entry.action) {
        (Verdict::Infected, _) => "bad",
        (Verdict::Clean, Action::Passed) => "good",
        _ => "warn",
    };
    html.raw("<details><summary><span class=\"pill ").raw(class).raw("\">");
    html.text(entry.verdict.name()).raw("</span> ").text(&entry.time.to_string()).raw(" ");
    html.raw("<span class=\"dim\">").text(entry.direction.name()).raw("</span> ");
    html.text(if entry.mail_from.is_empty() { &entry.message_id } else { &entry.mail_from });
    html.raw(" <span class=\"dim\">").text(entry.action.name()).raw("</span></summary>\n<pre>");
    for line in entry.explain().lines() {
        html.text(line).raw("\n");
    }
    html.raw("</pre></details>\n");
}

fn quarantine(html: &mut Html, listed: &Answer<Listed>, visitor: &Visitor, now_s: u64) {
    html.raw("<section><h2>Quarantine <small>sealed copies of what was refused</small></h2>\n");
    match listed {
        Err(problem) => {
            html.raw("<p class=\"dim\">").text(problem).raw("</p>");
        }
        Ok(listed) if listed.items.is_empty() => {
            html.raw("<p class=\"dim\">It is empty.</p>");
        }
        Ok(listed) => {
            html.raw(
                "<div class=\"scroll\"><table><thead><tr><th>Item</th><th>Age</th><th>Size</th>",
            );
            html.raw("<th>Found</th><th>From</th><th>Subject</th><th></th></tr></thead><tbody>\n");
            for (id, item) in &listed.items {
                row(html, id, item, visitor, now_s);
            }
            html.raw("</tbody></table></div>\n");
            if listed.more > 0 {
                html.raw("<p class=\"dim\">").number(listed.more as u64);
                html.raw(" older ones: <code>avr quarantine list</code> shows them.</p>");
            }
        }
    }
    html.raw("</section>\n");
}

fn row(html: &mut Html, id: &str, item: &Answer<Item>, visitor: &Visitor, now_s: u64) {
    html.raw("<tr><td><code>").text(id).raw("</code></td>");
    match item {
        Ok(item) => {
            let age = records::Span(Duration::from_secs(item.age_s(now_s))).to_string();
            let meta = &item.meta;
            let from = if meta.from.is_empty() { &meta.mail_from } else { &meta.from };
            for text in [&age, &bytes(item.bytes), &meta.verdict, from, &meta.subject] {
                html.raw("<td>").text(text).raw("</td>");
            }
        }
        Err(problem) => {
            html.raw("<td class=\"bad\" colspan=\"5\">").text(problem).raw("</td>");
        }
    }
    html.raw("<td>");
    if let Visitor::LoggedIn(who) = visitor {
        for (action, button) in [
            ("/quarantine/release", "<button>Download .eml</button></form>"),
            ("/quarantine/delete", "<button class=\"bad\">Delete</button></form>"),
        ] {
            begin_form(html, action, who);
            html.raw("<input type=\"hidden\" name=\"id\" value=\"").text(id).raw("\">").raw(button);
        }
    }
    html.raw("</td></tr>\n");
}

/// An order's form, which carries what only a page of this session knows.
fn begin_form(html: &mut Html, action: &'static str, who: &LoggedIn) {
    html.raw("<form method=\"post\" action=\"").raw(action).raw("\">");
    html.raw("<input type=\"hidden\" name=\"form\" value=\"").text(who.form.expose()).raw("\">");
}
