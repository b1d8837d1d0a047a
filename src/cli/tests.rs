//! What holds for every command.

use super::*;

/// Commands that print nothing to be read by programs, or only one form of it.
const WITHOUT_OUTPUT: [&str; 7] = [
    "run",
    "healthcheck",
    "completions",
    "man",
    // Always JSON.
    "config schema",
    "dead-letters export",
    // Always YAML, to be edited.
    "config reference",
];

/// A command and all below it, with their names as they are typed.
fn tree(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    found.push((path.to_owned(), command.clone()));
    for child in command.get_subcommands() {
        let path = format!("{path} {}", child.get_name());
        tree(child, path.trim_start(), found);
    }
}

fn with_groups() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    tree(&command(), "", &mut found);
    found
}

/// The commands that do something.
fn all() -> Vec<(String, clap::Command)> {
    let mut found = with_groups();
    found.retain(|(_, command)| !command.has_subcommands());
    found
}

#[test]
fn the_command_line_is_sound() {
    command().debug_assert();
    let names: Vec<String> = all().into_iter().map(|(path, _)| path).collect();
    for name in [
        "run",
        "check",
        "schema",
        "status",
        "checkpoint show",
        "checkpoint reset",
        "dead-letters list",
        "dead-letters replay",
        "tail",
        "config print",
        "healthcheck",
        "completions",
        "man",
    ] {
        assert!(
            names.iter().any(|known| known == name),
            "{name} of {names:?}"
        );
    }
}

#[test]
fn every_command_has_an_example_that_is_right() {
    for (path, command) in with_groups() {
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        let begin = format!("outbox-relay {path}");
        let begin = begin.trim_end();
        let examples: Vec<&str> = help
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("outbox-relay "))
            .collect();
        assert!(
            help.contains("Example") && examples.iter().any(|line| line.starts_with(begin)),
            "`{path} --help` has no example: {help}"
        );
        for example in examples {
            // What a shell does with the output is no argument.
            let words = example.split(['>', '|']).next().unwrap_or_default();
            let words = words.split_whitespace().map(|word| word.trim_matches('"'));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("an example of `{path}` is wrong: {example}\n{error}");
            }
        }
    }
}

#[test]
fn every_command_that_prints_data_prints_it_for_programs() {
    for (path, command) in all() {
        let output = command.get_arguments().find(|arg| arg.get_id() == "output");
        let values = output.map(clap::Arg::get_possible_values);
        let json = values.is_some_and(|values| values.iter().any(|v| v.get_name() == "json"));
        let expected = !WITHOUT_OUTPUT.contains(&path.as_str());
        assert_eq!(json, expected, "--output json of `{path}`");
    }
}

#[test]
fn every_argument_says_what_it_is() {
    for (path, command) in all() {
        assert!(command.get_about().is_some(), "{path}");
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{path} {}",
                argument.get_id()
            );
        }
    }
}
