//! What is stuck on the box, and what its operator's list is told of it.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::provision::Provision;

/// The label as text: one line a fact.
#[must_use]
pub fn text(unit: &Provision) -> String {
    let unknown = "read it on the box's console";
    let mac = |mac: Option<super::provision::Mac>| mac.map(|mac| mac.to_string());
    let rows = [
        ("name", Some(unit.network.hostname.clone())),
        ("serial", Some(unit.serial.clone()).filter(|serial| !serial.is_empty())),
        ("lan", mac(unit.mac.lan)),
        ("wan", mac(unit.mac.wan)),
        (
            "fleet",
            unit.fleet.as_ref().map(|fleet| fleet.domain.clone()).or(Some("none".to_owned())),
        ),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        text.push_str(&format!("{name:<8}{}\n", value.as_deref().unwrap_or(unknown)));
    }
    if !unit.note.is_empty() {
        text.push_str(&format!("{:<8}{}\n", "note", unit.note));
    }
    text
}

/// A line for `avr-auther import`: MAC address, serial number, note. `None` where the MAC address of
/// the port to the office is not known, by which a box is admitted.
#[must_use]
pub fn csv(unit: &Provision) -> Option<String> {
    let mac = unit.mac.lan?;
    let note = if unit.note.is_empty() { &unit.network.hostname } else { &unit.note };
    Some(format!("{mac},{},{}", unit.serial, cell(note)))
}

/// The same for a camera, in a terminal whose ground is dark; `None` where it would not fit.
#[must_use]
pub fn qr(text: &str) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    // What a terminal draws is light, so that the two are changed round.
    let mut picture = code.render::<Dense1x2>();
    Some(picture.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// RFC 4180, and a cell that a spreadsheet would take for a formula gets a `'` in front, which an
/// import takes off again.
fn cell(text: &str) -> String {
    let bare = text.trim_start_matches('\'');
    let text =
        if bare.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(note: &str) -> Provision {
        let mut unit = Provision { note: note.to_owned(), ..Provision::default() };
        unit.serial = "AVR-0007".to_owned();
        unit.mac.lan = Some("02:00:5e:10:00:01".parse().unwrap());
        unit
    }

    #[test]
    fn the_line_is_what_the_auther_imports() {
        assert_eq!(csv(&unit("")).unwrap(), "02:00:5e:10:00:01,AVR-0007,avr");
        let quoted = csv(&unit("a \"b\", c")).unwrap();
        assert_eq!(quoted, "02:00:5e:10:00:01,AVR-0007,\"a \"\"b\"\", c\"");
        assert!(csv(&unit("=1+1")).unwrap().ends_with(",'=1+1"));
        assert_eq!(csv(&Provision::default()), None);
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        let text = text(&unit("front desk"));
        assert_eq!(
            text,
            "name    avr\nserial  AVR-0007\nlan     02:00:5e:10:00:01\n\
             wan     read it on the box's console\nfleet   none\nnote    front desk\n"
        );
    }

    #[test]
    fn a_code_is_a_square_with_a_light_edge() {
        let picture = qr("02:00:5e:10:00:01,AVR-0007,front desk").unwrap();
        let widths: Vec<usize> = picture.lines().map(|line| line.chars().count()).collect();
        // Version 3 has 29 modules, and four of quiet on each side; two modules a character downwards.
        assert!(widths.iter().all(|&width| width == 37) && widths.len() == 19, "{widths:?}");
        assert!(picture.lines().next().unwrap().chars().all(|it| it == '█'), "{picture}");
        assert_eq!(qr(&"x".repeat(5000)), None);
    }
}
