//! A page of section 8: a program.

use std::fmt::Write as _;

use clap::{Arg, Command};
use clap_mangen::Man;

use crate::roff;

/// The page of a program. Its subcommands stand on it in full: they are too short for pages of their
/// own. `by_hand` follows.
pub(crate) fn page(command: &Command, by_hand: &str, date: &str) -> anyhow::Result<Vec<u8>> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let man = Man::new(command.clone());
    let mut page = roff::title(command.get_name(), "8", date).into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut commands = String::from(".SH COMMANDS\n");
    for subcommand in visible(&command) {
        write_command(&mut commands, command.get_name(), subcommand);
    }
    page.extend_from_slice(commands.as_bytes());
    page.extend_from_slice(by_hand.as_bytes());
    Ok(page)
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set())
}

/// A subcommand with its arguments, or the ones below it.
fn write_command(page: &mut String, above: &str, command: &Command) {
    let path = format!("{above} {}", command.get_name());
    if visible(command).next().is_some() {
        for subcommand in visible(command) {
            write_command(page, &path, subcommand);
        }
        return;
    }
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !argument.is_global_set())
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        .collect();
    let mut heading = path;
    for argument in &arguments {
        let shown = argument.to_string();
        // A positional one that may be left out has its brackets already.
        let is_marked = argument.is_required_set() || argument.is_positional();
        let shown = if is_marked { shown } else { format!("[{shown}]") };
        let _ = write!(heading, " {shown}");
    }
    let _ = writeln!(page, ".SS \"{}\"", roff::text(&heading));
    write_help(page, command.get_about());
    for argument in arguments {
        let _ = writeln!(page, ".TP\n\\fB{}\\fR", roff::text(&argument.to_string()));
        write_help(page, argument.get_help());
    }
}

fn write_help(page: &mut String, help: Option<&clap::builder::StyledStr>) {
    for line in help.map(ToString::to_string).unwrap_or_default().lines() {
        let _ = writeln!(page, "{}", roff::text(line));
    }
}
