//! Topic templates: `outbox.event.{aggregate_type}`.

use std::fmt;

use super::read::Scalar;
use super::resolved::{TopicPart, TopicTemplate};

const PLACEHOLDERS: &str = "{aggregate_type}, {event_type}, {keyspace}, {table} or {column:name}";

impl TopicTemplate {
    /// Parses a template. The error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, tail) = rest.split_at(open);
            push_literal(&mut parts, literal)?;
            let Some(tail) = tail.strip_prefix('{') else {
                return Err("has a } without a { before it".to_owned());
            };
            let Some((name, tail)) = tail.split_once('}') else {
                return Err("has a { without a } after it".to_owned());
            };
            parts.push(placeholder(name)?);
            rest = tail;
        }
        push_literal(&mut parts, rest)?;
        let literals = parts.iter().map(|part| match part {
            TopicPart::Literal(literal) => literal.len(),
            _ => 0,
        });
        if literals.sum::<usize>() > 249 {
            return Err("is longer than the 249 characters that Kafka allows".to_owned());
        }
        if let [TopicPart::Literal(name)] = &parts[..]
            && matches!(name.as_str(), "." | "..")
        {
            return Err("is not a topic that Kafka allows".to_owned());
        }
        if parts.is_empty() {
            return Err(format!(
                "is empty: write a topic, with {PLACEHOLDERS} in it"
            ));
        }
        Ok(Self { parts })
    }

    /// The topic, if it is the same for every row.
    pub fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [TopicPart::Literal(topic)] => Some(topic),
            _ => None,
        }
    }
}

fn push_literal(parts: &mut Vec<TopicPart>, literal: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(character) = literal.chars().find(|c| !allowed(*c)) {
        return Err(format!(
            "has {character:?}, which Kafka does not allow in a topic: use letters, digits, '.', \
             '_' and '-'"
        ));
    }
    if !literal.is_empty() {
        parts.push(TopicPart::Literal(literal.to_owned()));
    }
    Ok(())
}

fn placeholder(name: &str) -> Result<TopicPart, String> {
    Ok(match name {
        "aggregate_type" => TopicPart::AggregateType,
        "event_type" => TopicPart::EventType,
        "keyspace" => TopicPart::Keyspace,
        "table" => TopicPart::Table,
        _ => match name.strip_prefix("column:") {
            Some(column) if !column.is_empty() => TopicPart::Column(column.to_owned()),
            _ => {
                return Err(format!(
                    "has the unknown placeholder {{{name}}}: write {PLACEHOLDERS}"
                ));
            }
        },
    })
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                TopicPart::Literal(text) => f.write_str(text)?,
                TopicPart::AggregateType => f.write_str("{aggregate_type}")?,
                TopicPart::EventType => f.write_str("{event_type}")?,
                TopicPart::Keyspace => f.write_str("{keyspace}")?,
                TopicPart::Table => f.write_str("{table}")?,
                TopicPart::Column(column) => write!(f, "{{column:{column}}}")?,
            }
        }
        Ok(())
    }
}

impl Scalar for TopicTemplate {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_literals_and_placeholders() {
        let parts = TopicTemplate::parse("outbox.{keyspace}.{column:region}-{event_type}x");
        let expected = vec![
            TopicPart::Literal("outbox.".to_owned()),
            TopicPart::Keyspace,
            TopicPart::Literal(".".to_owned()),
            TopicPart::Column("region".to_owned()),
            TopicPart::Literal("-".to_owned()),
            TopicPart::EventType,
            TopicPart::Literal("x".to_owned()),
        ];
        assert_eq!(parts.unwrap().parts, expected);
    }

    #[test]
    fn errors_say_what_would_be_right() {
        let error = |text: &str| TopicTemplate::parse(text).unwrap_err();
        assert!(error("a{agregate}").contains("{aggregate_type}"));
        assert!(error("a{column:}").contains("{column:name}"));
        assert!(error("a{b").contains("without a }"));
        assert!(error("a}b").contains("without a {"));
        assert!(error("orders/new").contains("'/'"));
        assert!(error("").contains("empty"));
        assert!(error("..").contains("not a topic"));
        assert!(error(&"x".repeat(250)).contains("249"));
    }
}
