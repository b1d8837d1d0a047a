//! Text into tokens.

use winnow::combinator::{alt, opt, repeat};
use winnow::prelude::*;
use winnow::token::{one_of, take_till, take_until, take_while};

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or unquoted identifier, in lower case.
    Word(String),
    /// `"Quoted"` identifier.
    Quoted(String),
    /// `'text'`
    Text(String),
    /// Digits.
    Integer(String),
    /// Digits with a point or an exponent.
    Float(String),
    /// `0x…`, digits alone.
    Hex(String),
    /// A uuid.
    Uuid(uuid::Uuid),
    /// `1h30m`, `P1Y`
    Duration(String),
    /// Operators and brackets.
    Sign(&'static str),
}

/// A token and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Kind,
    /// Its first byte in the text.
    pub(super) offset: usize,
    /// The byte behind it.
    pub(super) end: usize,
}

type LexResult<T> = winnow::ModalResult<T>;

/// All tokens of a text, or the offset of the first byte that starts none.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, usize> {
    let mut tokens = Vec::new();
    let mut input = text;
    loop {
        if blank(&mut input).is_err() {
            return Err(text.len() - input.len());
        }
        if input.is_empty() {
            return Ok(tokens);
        }
        let offset = text.len() - input.len();
        let kind = token.parse_next(&mut input).map_err(|_| offset)?;
        tokens.push(Token {
            kind,
            offset,
            end: text.len() - input.len(),
        });
    }
}

/// White space and comments.
fn blank(input: &mut &str) -> LexResult<()> {
    let spaces = take_while(1.., |c: char| c.is_whitespace() || c == '\u{feff}').void();
    let line = (alt(("--", "//")), take_till(0.., ['\n', '\r'])).void();
    let block = ("/*", take_until(0.., "*/"), "*/").void();
    repeat(0.., alt((spaces, line, block))).parse_next(input)
}

fn token(input: &mut &str) -> LexResult<Kind> {
    alt((
        uuid_literal.map(Kind::Uuid),
        hex,
        duration.map(Kind::Duration),
        number,
        word,
        quoted('"').map(Kind::Quoted),
        quoted('\'').map(Kind::Text),
        dollar_quoted.map(Kind::Text),
        sign.map(Kind::Sign),
    ))
    .parse_next(input)
}

fn uuid_literal(input: &mut &str) -> LexResult<uuid::Uuid> {
    let group = |count: usize| take_while(count..=count, |c: char| c.is_ascii_hexdigit());
    let text = (
        group(8),
        '-',
        group(4),
        '-',
        group(4),
        '-',
        group(4),
        '-',
        group(12),
    )
        .take();
    text.try_map(uuid::Uuid::parse_str).parse_next(input)
}

fn hex(input: &mut &str) -> LexResult<Kind> {
    let digits = take_while(0.., |c: char| c.is_ascii_hexdigit());
    ('0', one_of(['x', 'X']), digits)
        .map(|(_, _, digits): (_, _, &str)| Kind::Hex(digits.to_owned()))
        .parse_next(input)
}

fn digits<'s>(input: &mut &'s str) -> LexResult<&'s str> {
    take_while(1.., |c: char| c.is_ascii_digit()).parse_next(input)
}

/// `1y2mo3w4d5h6m7s8ms9us10ns` in this or another order, or `P1Y2M3DT4H5M6S`, `P2W`.
fn duration(input: &mut &str) -> LexResult<String> {
    let case = |unit: &'static str| winnow::ascii::Caseless(unit);
    let long = || alt((case("mo"), case("ms"), case("us"), "µs", case("ns")));
    let unit = || {
        alt((
            long(),
            one_of(|c: char| "ywdhms".contains(c.to_ascii_lowercase())).take(),
        ))
    };
    let short = repeat::<_, _, (), _, _>(1.., (digits, unit())).take();
    let part = (digits, one_of(['Y', 'M', 'W', 'D', 'H', 'S']));
    let time = (digits, one_of(['H', 'M', 'S']));
    let iso = (
        'P',
        repeat::<_, _, (), _, _>(0.., part),
        opt(('T', repeat::<_, _, (), _, _>(1.., time))),
    )
        .take()
        .verify(|text: &str| text.len() > 2);
    let text = alt((short, iso)).parse_next(input)?;
    // A name may start like a duration: `P1Yx`, or a number be followed by a word.
    if input.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return winnow::combinator::fail.parse_next(input);
    }
    Ok(text.to_owned())
}

fn number(input: &mut &str) -> LexResult<Kind> {
    let exponent = || (one_of(['e', 'E']), opt(one_of(['+', '-'])), digits);
    let float = alt((
        (
            digits,
            '.',
            take_while(0.., |c: char| c.is_ascii_digit()),
            opt(exponent()),
        )
            .void(),
        (digits, exponent()).void(),
    ))
    .take();
    alt((
        float.map(|text: &str| Kind::Float(text.to_owned())),
        digits.map(|text: &str| Kind::Integer(text.to_owned())),
    ))
    .parse_next(input)
}

fn word(input: &mut &str) -> LexResult<Kind> {
    let start = one_of(|c: char| c.is_ascii_alphabetic());
    let more = take_while(0.., |c: char| c.is_ascii_alphanumeric() || c == '_');
    (start, more)
        .take()
        .map(|text: &str| Kind::Word(text.to_ascii_lowercase()))
        .parse_next(input)
}

/// Text between quotes; a doubled quote stands for one.
fn quoted(mut quote: char) -> impl FnMut(&mut &str) -> LexResult<String> {
    move |input| {
        quote.parse_next(input)?;
        let mut text = String::new();
        loop {
            text.push_str(take_till(0.., quote).parse_next(input)?);
            quote.parse_next(input)?;
            if opt(quote).parse_next(input)?.is_none() {
                return Ok(text);
            }
            text.push(quote);
        }
    }
}

fn dollar_quoted(input: &mut &str) -> LexResult<String> {
    let body = ("$$", take_until(0.., "$$"), "$$");
    body.map(|(_, text, _): (_, &str, _)| text.to_owned())
        .parse_next(input)
}

fn sign(input: &mut &str) -> LexResult<&'static str> {
    const SIGNS: [&str; 23] = [
        "<=", ">=", "!=", "(", ")", "[", "]", "{", "}", "<", ">", "=", ",", ";", ":", ".", "?",
        "*", "+", "-", "/", "%", "@",
    ];
    for sign in SIGNS {
        if let Some(tail) = input.strip_prefix(sign) {
            *input = tail;
            return Ok(sign);
        }
    }
    winnow::combinator::fail.parse_next(input)
}
