//! An error as one line of a log.

use std::fmt::Display;

/// An error with all its sources on one line, without those whose words the one before has.
pub struct Chain<'e>(pub &'e (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said.push_str(&text);
            }
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Named(&'static str, #[source] Option<Box<Named>>);

    #[test]
    fn a_chain_names_every_cause() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Chain(&error).to_string(), "outer: inner");
        let error = std::io::Error::other(Outer(std::io::Error::other("out")));
        assert_eq!(Chain(&error).to_string(), "outer", "nothing is said twice");
        let between = Named("between", Some(Box::new(Named("refused", None))));
        let error = Named("no node: refused", Some(Box::new(between)));
        assert_eq!(Chain(&error).to_string(), "no node: refused: between");
    }
}
