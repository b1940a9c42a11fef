//! The results for people, and for programs.
#![allow(clippy::print_stdout, reason = "what a person waits for goes to standard output")]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    arm::Arm,
    chart,
    cli::Mail,
    matrix::Cell,
    record::{Memory, Pop3, Results, Smtp, Source, Summary},
    run::{errors_of, write_file},
    stats::Spread,
};

/// Where the tree keeps the last published results.
const PUBLISHED: &str = env!("CARGO_MANIFEST_DIR");
/// What a reader must know to read the figures rightly.
const LABELS: &str = "\
How it was measured
- All arms in one run, one after the other in each round; what a round gives is not thrown away. Rates
  are medians of the rounds, with the least and the most; latencies are medians of the rounds' percentiles.
- Client and mail server are this program's own, lock-step: each command is answered before the next
  is sent. No two mails, nor their attachments, are alike (but for \"same attachment\"): verdicts that are
  remembered help nobody. The attachment is base64 of bytes that look random.
- The mail server compares every byte of every mail with what was sent.
- All arms with clamd use the same one on the same socket, with one signature (EICAR): what is compared
  is proxies, not scanning. A full database was not loaded; with it clamd costs more, and proxies
  differ less. The chain's sites have a clamd each, of the same kind, of 4 threads.
- Everything spools to memory (tmpfs). clamsmtp and HAProxy are as Debian has them; clamsmtp adds no
  header and may have 256 connections. Postfix stores mail before it answers and forwards it later: its
  latency does not contain the mail server's, and no other arm's \"250\" comes before the server's.
- A connection that is accepted and has no banner for a second is made again, and counted as lost:
  clamsmtp's queue of new connections holds 5, and what overflows it waits for ever. The time counts.
- Latency is from the last piece of a mail (its last 64 KiB, with the end of data) to the \"250\".
- Added latency is beyond the median of the direct way in the same round; for the chain, beyond that of
  the plain bridge in the lab. With many sessions in a closed loop latency is mostly waiting in line.
- CPU is user's and system's of the arm's own programs with all their children, without clamd, client
  and server. Peak memory is resident memory of the same, what processes share counted for each; in the
  figure of memory a session it is counted once, looked at each 50 ms, of programs that had carried
  nothing but small mails. Files in memory are the whole machine's, clamd's and others' spools too.
- \"clamd alone\" has no mail server, and so is the most that clamd does on these cores; \"clamd at no other
  cost\" is the most that any proxy with it could do beside this client and mail server.

Not compared: commercial boxes; programs that Debian 12 has not (p3scan, smtp-gated); TLS; networks with
delay. POP3 only beside a proxy that does not scan: there is no scanning one to install.
";

/// One measurement, as it goes by.
pub(crate) fn line(one: &Smtp) -> String {
    let us = one.latency_us;
    format!(
        "  {:<28} {:>8.1} mails/s  {} {} {} ms  {:>7.3} CPU s/1000  {:>5} MiB{}{}",
        one.arm.title(),
        one.mails_per_second,
        ms(us.p50 as f64),
        ms(us.p95 as f64),
        ms(us.p99 as f64),
        one.cpu_seconds * 1e3 / one.mails.max(1) as f64,
        one.peak_resident_kib / 1024,
        arrival(one),
        errors_of(&one.errors)
    )
}

/// What is to be said of what arrived, if anything.
fn arrival(one: &Smtp) -> String {
    let missing = (one.mails as u64).saturating_sub(one.arrived.mails());
    let mut text = String::new();
    if !one.arm.carries_mail() {
        return text;
    }
    for (number, what) in [
        (one.arrived.fields_added, "with fields added"),
        (one.arrived.altered, "ALTERED"),
        (one.arrived.foreign, "FOREIGN"),
        (missing, "MISSING"),
        (one.lost_connections.into(), "connections lost"),
    ] {
        if number > 0 {
            let _ = write!(text, "  {number} {what}");
        }
    }
    text
}

/// One measurement by POP3, as it goes by.
pub(crate) fn pop3_line(one: &Pop3) -> String {
    let exact = one.arrived.exact == one.mails as u64;
    format!(
        "  {:<28} {:>8.1} mails/s  first byte {} ms, complete {} {} ms  {:>7.3} CPU s/1000{}{}",
        one.arm.title(),
        one.mails_per_second,
        ms(one.first_byte_us.p50 as f64),
        ms(one.complete_us.p50 as f64),
        ms(one.complete_us.p99 as f64),
        one.cpu_seconds * 1e3 / one.mails.max(1) as f64,
        if exact { "" } else { "  ALTERED" },
        errors_of(&one.errors)
    )
}

/// One measurement by `smtp-source`.
pub(crate) fn source_line(one: &Source) -> String {
    let rate = one.mails_per_second;
    let rate =
        rate.map_or("failed, or did not end".to_owned(), |rate| format!("{rate:>8.0} mails/s"));
    format!("{:<28} {rate}", one.arm.title())
}

/// Prints the tables, and writes the files.
pub(crate) fn write(mail: &Mail, results: &Results, is_complete: bool) -> Result<()> {
    let text = text(results);
    println!("\n{text}");
    let out = mail.out()?;
    let chart = chart::draw(results);
    let all = json!({ "results": results, "summaries": results.summaries() });
    write_file(&out.join("mail.json"), &serde_json::to_string_pretty(&all)?)?;
    write_file(&out.join("mail.svg"), &chart)?;
    println!("\nwritten: {}", out.join("mail.{json,svg}").display());
    if mail.publish && is_complete {
        publish(results, &text, &chart)?;
    }
    Ok(())
}

fn publish(results: &Results, text: &str, chart: &str) -> Result<()> {
    let folder = Path::new(PUBLISHED);
    ensure!(folder.exists(), "{} is not there any more: publish from the tree", folder.display());
    let markdown = PathBuf::from("RESULTS.md");
    write_file(&folder.join(&markdown), &published(results, text))?;
    write_file(&folder.join("mail.svg"), chart)?;
    println!("published: {} and mail.svg", folder.join(markdown).display());
    Ok(())
}

fn published(results: &Results, text: &str) -> String {
    let rows: Vec<String> = results.summaries().iter().map(row).collect();
    format!(
        "# Mail proxies compared\n\nWritten by `scripts/bench mail --publish`.\n\n\
         ![Mails a second and added latency](mail.svg)\n\n```text\n{text}```\n\n\
         The same for programs: arm, bytes of a mail, sessions, mails a session, same attachment; mails/s \
         (median, least, most); latency p50, p95, p99 in µs; CPU seconds per 1,000 mails; peak \
         resident KiB.\n\n```json\n[\n{}\n]\n```\n",
        rows.join(",\n")
    )
}

/// A summary on one line of JSON.
fn row(summary: &Summary) -> String {
    let Cell { size, sessions, mails, repeated } = summary.cell;
    let rate = summary.mails_per_second;
    let rounded = |number: f64| (number * 1e3).round() / 1e3;
    json!([
        summary.arm,
        size,
        sessions,
        mails,
        repeated,
        rounded(rate.median),
        rounded(rate.min),
        rounded(rate.max),
        summary.p50_us.median,
        summary.p95_us.median,
        summary.p99_us.median,
        rounded(summary.cpu_seconds_per_1000.median),
        summary.peak_resident_kib.median,
    ])
    .to_string()
}

/// Everything, for people.
pub(crate) fn text(results: &Results) -> String {
    let mut text = heading(results);
    for cell in &results.plan.smtp {
        text += &table(results, *cell);
    }
    for cell in &results.plan.pop3 {
        text += &pop3_table(results, *cell);
    }
    text += &memory_table(&results.memory);
    text += "\nAn infected mail (EICAR)\n";
    for one in &results.infected {
        let delivered = if one.delivered { "delivered" } else { "not delivered" };
        let _ = writeln!(text, "  {:<28} {delivered:<14} {}", one.arm.title(), one.reply);
    }
    text += "\nBy Postfix's smtp-source, 10 KB, 20 sessions of one mail, all mails alike\n";
    for one in &results.source {
        let _ = writeln!(text, "  {}", source_line(one));
    }
    text += "\n";
    text += LABELS;
    text += &target_list(results);
    text
}

fn heading(results: &Results) -> String {
    let machine = &results.machine;
    let cores = results.cores.as_ref().map_or("all share all".to_owned(), |(ends, middle)| {
        format!("client and mail server on {ends}, proxies and clamd on {middle}")
    });
    let loads = results.smtp.iter().map(|one| one.load_average);
    let load = Spread::of(loads).map_or(0.0, |spread| spread.max);
    format!(
        "Mail proxies compared, rounds: {}, minutes: {:.0}\n\
         {}, {} cores ({cores}), {} MiB, Linux {}\n\
         load average {:.1} at the start, at most {load:.1} during it\n{}\n",
        results.rounds,
        results.seconds / 60.0,
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.load_average,
        machine.packages.join(", "),
    )
}

fn table(results: &Results, cell: Cell) -> String {
    let mut text = format!(
        "\nSMTP, {cell}\n  {:<28} {:>8} {:>17}  {:>26}  {:>26}  {:>9} {:>7}\n",
        "",
        "mails/s",
        "least–most",
        "ms p50 / p95 / p99",
        "added p50 / p95 / p99",
        "CPU s/1k",
        "MiB"
    );
    for summary in Arm::ALL.into_iter().filter_map(|arm| results.summary(arm, cell)) {
        let rate = summary.mails_per_second;
        let range = format!("{:.1}–{:.1}", rate.min, rate.max);
        let raw = [summary.p50_us, summary.p95_us, summary.p99_us].map(|us| ms(us.median));
        let added = [summary.added_p50_us, summary.added_p95_us, summary.added_p99_us]
            .map(|us| us.map_or_else(|| format!("{:>8}", "-"), |us| ms(us.median)));
        let is_baseline = summary.arm.baseline() == summary.arm || !summary.arm.carries_mail();
        let _ = writeln!(
            text,
            "  {:<28} {:>8.1} {range:>17}  {}  {:>26}  {:>9.3} {:>7.1}",
            summary.arm.title(),
            rate.median,
            raw.join(" "),
            if is_baseline { String::new() } else { added.join(" ") },
            summary.cpu_seconds_per_1000.median,
            summary.peak_resident_kib.median / 1024.0,
        );
    }
    text
}

fn pop3_table(results: &Results, cell: Cell) -> String {
    let mut text = format!(
        "\nPOP3, {cell}\n  {:<28} {:>8}  {:>13}  {:>17}  {:>9}\n",
        "", "mails/s", "ms first byte", "complete p50/p99", "CPU s/1k"
    );
    for arm in Arm::ALL.into_iter().filter(|arm| arm.speaks_pop3()) {
        let of = |value: fn(&Pop3) -> f64| {
            let ones = results.pop3.iter().filter(|one| one.arm == arm && one.cell == cell);
            Spread::of(ones.map(value)).map(|spread| spread.median)
        };
        let Some(rate) = of(|one| one.mails_per_second) else { continue };
        let time = |value: fn(&Pop3) -> f64| ms(of(value).unwrap_or_default());
        let cpu = of(|one| one.cpu_seconds * 1e3 / one.mails.max(1) as f64);
        let _ = writeln!(
            text,
            "  {:<28} {rate:>8.1}  {:>13}  {} {}  {:>9.3}",
            arm.title(),
            time(|one| one.first_byte_us.p50 as f64),
            time(|one| one.complete_us.p50 as f64),
            time(|one| one.complete_us.p99 as f64),
            cpu.unwrap_or_default(),
        );
    }
    text
}

fn memory_table(memory: &[Memory]) -> String {
    let mut text = String::new();
    if let Some(first) = memory.first() {
        let _ = writeln!(
            text,
            "\nMemory while mails of 25 MB stream through, {} sessions at once\n  {:<28} {:>13} \
             {:>10} {:>10} {:>22}",
            first.sessions, "", "KiB a session", "idle MiB", "peak MiB", "KiB of files a session"
        );
    }
    for one in memory {
        let _ = writeln!(
            text,
            "  {:<28} {:>13.0} {:>10.1} {:>10.1} {:>22.0}{}",
            one.arm.title(),
            one.kib_per_session,
            one.idle_kib as f64 / 1024.0,
            one.peak_kib as f64 / 1024.0,
            one.spool_kib_per_session,
            errors_of(&one.errors)
        );
    }
    text
}

fn target_list(results: &Results) -> String {
    let mut text = String::from("\nTargets\n");
    for target in &results.targets {
        let _ = writeln!(text, "{:<84} {:<8} {}", target.name, target.mark(), target.measured);
        let beside = match target.beside.as_str() {
            "" => String::new(),
            beside => format!("beside: {beside}; "),
        };
        let _ = writeln!(text, "{:<84} {:<8} {beside}target: {}", "", "", target.wanted);
    }
    let missed = results.targets.iter().filter(|target| target.reached == Some(false)).count();
    let unknown = results.targets.iter().filter(|target| target.reached.is_none()).count();
    let all = results.targets.len();
    let _ = writeln!(
        text,
        "\n{} of {all} targets reached, {missed} missed, {unknown} not measured.",
        all - missed - unknown
    );
    text
}

/// Microseconds as milliseconds, always as wide.
fn ms(us: f64) -> String {
    let ms = us / 1e3;
    let digits = if ms.abs() < 100.0 { 2 } else { 0 };
    format!("{ms:>8.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::tests::results, targets};

    #[test]
    fn the_text_has_every_case_arm_and_target() {
        let mut results = results(|_, _| 100.0);
        results.targets = targets::judge(&results);
        let text = text(&results);
        for cell in &results.plan.smtp {
            assert!(text.contains(&format!("SMTP, {cell}\n")), "{cell}");
        }
        for arm in Arm::ALL {
            assert!(text.matches(arm.title()).count() >= results.plan.smtp.len(), "{arm:?}");
        }
        for target in &results.targets {
            assert!(text.contains(&target.name));
        }
        assert!(text.ends_with("10 of 15 targets reached, 4 missed, 1 not measured.\n"), "{text}");
    }

    #[test]
    fn what_is_published_has_a_row_of_json_for_each_case_and_arm() {
        let results = results(|_, _| 100.0);
        let published = published(&results, "the text\n");
        let start = published.find("```json\n").unwrap() + 8;
        let json = published[start..].strip_suffix("\n```\n").unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
        assert_eq!(rows.len(), results.plan.smtp.len() * Arm::ALL.len());
        let first = ["\"direct\"", "10240", "1", "1", "false", "100.0"];
        for (index, value) in first.iter().enumerate() {
            assert_eq!(rows[0][index].to_string(), *value);
        }
    }

    #[test]
    fn losses_and_changes_are_said_on_the_line() {
        let mut results = results(|_, _| 100.0);
        let one = &mut results.smtp[0];
        assert!(!line(one).contains("MISSING"));
        one.arrived.exact -= 3;
        one.arrived.altered = 1;
        let line = line(one);
        assert!(line.contains("1 ALTERED") && line.contains("2 MISSING"), "{line}");
    }

    #[test]
    fn times_keep_their_width() {
        for (us, text) in [
            (0.0, "    0.00"),
            (1_234.0, "    1.23"),
            (250_000.0, "     250"),
            (-500.0, "   -0.50"),
        ] {
            assert_eq!(ms(us), text);
        }
    }
}
