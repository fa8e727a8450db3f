//! `director man`: manual pages, generated from the commands' help.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::Cli;

/// System administration.
const SECTION: &str = "8";

/// Print a manual page, or write all of them
///
/// `director man run | man -l -` shows one. The package installs all of them: `man director-run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The command, such as run or "lab up"; director itself if none is named
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write a page per command into this directory, which is created if missing
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    match &args.dir {
        Some(dir) => {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            write_pages(&cli, dir)?;
        }
        None => {
            let page = page(named(&cli, &args.command)?)?;
            io::stdout().write_all(&page).context("cannot print")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The command that the words name.
fn named<'c>(cli: &'c Command, words: &[String]) -> anyhow::Result<&'c Command> {
    let mut command = cli;
    for word in words.iter().flat_map(|words| words.split_whitespace()) {
        let Some(next) = command.find_subcommand(word) else {
            let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            bail!("there is no command {word:?} here; there are: {}", known.join(", "))
        };
        command = next;
    }
    Ok(command)
}

fn write_pages(command: &Command, dir: &Path) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = dir.join(format!("{name}.{SECTION}"));
    fs::write(&path, page(command)?).with_context(|| format!("cannot write {}", path.display()))?;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(command, dir)?;
    }
    Ok(())
}

/// One page.
fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let shown = |command: &&Command| !command.is_hide_set();
    let has_commands = command.get_subcommands().find(shown).is_some();
    let man = Man::new(command.clone())
        .section(SECTION)
        .source(concat!("director ", env!("CARGO_PKG_VERSION")))
        .manual("Director");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    terms(&mut roff, "EXIT STATUS", &EXIT_STATUS);
    if command.get_name() == "director" {
        terms(&mut roff, "FILES", &FILES);
    } else {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold("director"), roman(format!("({SECTION})"))]);
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}

const EXIT_STATUS: [(&str, &str); 3] =
    [("0", "Done."), ("1", "Failed."), ("2", "Wrong usage, or an invalid configuration.")];

const FILES: [(&str, &str); 4] = [
    ("/etc/director/director.yaml", "The configuration."),
    ("/sys/fs/bpf/director/INSTANCE", "Pinned maps, programs and links of the datapath."),
    ("/run/director", "The API's socket, and the records for undoing changes of the host."),
    ("/usr/share/doc/director", "Examples, and the JSON Schema of the configuration."),
];

fn terms(roff: &mut Roff, heading: &str, terms: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (term, text) in terms {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_a_description() {
        let mut cli = Cli::command().disable_help_subcommand(true);
        cli.build();
        let mut todo = vec![&cli];
        let mut n_pages = 0;
        while let Some(command) = todo.pop() {
            let page = String::from_utf8(page(command).expect("renders")).expect("UTF-8");
            let name = command.get_display_name().unwrap_or("director").to_owned();
            assert!(page.contains(&format!(".TH {name} {SECTION}")), "{page}");
            for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS"] {
                let heading = [format!(".SH {heading}"), format!(".SH \"{heading}\"")];
                assert!(heading.iter().any(|heading| page.contains(heading)), "{name}: {page}");
            }
            let about = command.get_about().unwrap_or_else(|| panic!("{name} has no help"));
            assert!(about.to_string().len() > 10, "{name}: {about}");
            todo.extend(command.get_subcommands());
            n_pages += 1;
        }
        assert!(n_pages > 10, "{n_pages}");
    }

    #[test]
    fn commands_are_found_by_their_words() {
        let mut cli = Cli::command();
        cli.build();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let up = named(&cli, &words(&["lab up"])).expect("is there");
        assert_eq!(up.get_display_name(), Some("director-lab-up"));
        assert_eq!(named(&cli, &words(&[])).expect("itself").get_name(), "director");
        let error = named(&cli, &words(&["lab", "upp"])).expect_err("is not").to_string();
        assert!(error.contains("\"upp\"") && error.contains("down"), "{error}");
    }
}
