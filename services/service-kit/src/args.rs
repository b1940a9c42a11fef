//! The command line that the servers have in common.

use std::path::PathBuf;

/// `--config FILE`, for `#[command(flatten)]`. The program names its default with
/// `mut_arg`, or takes [`ConfigArg::or`].
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArg {
    /// Settings file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArg {
    /// The file named, or `default`.
    #[must_use]
    pub fn or(self, default: &str) -> PathBuf {
        self.config.unwrap_or_else(|| PathBuf::from(default))
    }
}

/// What every server can be told; a server with more commands flattens this one into its own.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT, then let what is running come to its end.
    Serve,
    /// Look at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// See [`Command::Config`].
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ConfigCommand {
    /// Read the settings file and every file it names; say what is wrong. Binds no port.
    Check,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Args {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn config_is_taken_before_and_behind_the_command() {
        for line in [["x", "--config", "a.toml", "serve"], ["x", "serve", "--config", "a.toml"]] {
            let args = Args::try_parse_from(line).unwrap();
            assert_eq!(args.config.or("default.toml"), PathBuf::from("a.toml"));
            assert!(matches!(args.command, Command::Serve));
        }
        let args = Args::try_parse_from(["x", "config", "check"]).unwrap();
        assert_eq!(args.config.or("default.toml"), PathBuf::from("default.toml"));
        assert!(matches!(args.command, Command::Config(ConfigCommand::Check)));
        assert!(Args::try_parse_from(["x"]).is_err());
    }
}
