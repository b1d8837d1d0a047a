//! What is logged: a level, or a filter by part.

use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};

/// Why a text is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A word that is no level. `tracing` takes it for the name of a part, and would log nothing else.
    #[error(
        "`{0}` is no level: write error, warn, info, debug or trace, or part=level for one part"
    )]
    Level(String),
    /// It cannot be read.
    #[error("write error, warn, info, debug, trace, or a filter such as info,outbox_relay=debug")]
    Form(#[from] ParseError),
}

/// Reads a level, or a filter as `tracing_subscriber` has it: `level` and `target[span{field=value}]=level`,
/// separated by commas. A target alone, which would mean all of its levels, is not taken.
///
/// # Errors
///
/// When it is none.
pub fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    let filter = EnvFilter::builder().parse(text)?;
    if text.trim().is_empty() {
        return Err(FilterError::Level(text.to_owned()));
    }
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let bare = !word.contains(['=', '[']);
        if bare && word.parse::<LevelFilter>().is_err() {
            return Err(FilterError::Level(word.to_owned()));
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_taken() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,outbox_relay=debug",
            "warn,outbox_relay::source=trace",
            "info,outbox_relay[group{table=a}]=trace",
            "error,[group]",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_and_named() {
        for (text, word) in [
            ("Infoo", "`Infoo`"),
            ("deebug", "`deebug`"),
            ("info,outbox_relay", "`outbox_relay`"),
            ("warning", "`warning`"),
            ("", "``"),
        ] {
            let error = parse(text).expect_err("no level").to_string();
            assert!(error.contains(word), "{error}");
        }
        for text in ["a=b=c", "outbox=loud"] {
            assert!(matches!(parse(text), Err(FilterError::Form(_))), "{text}");
        }
    }
}
