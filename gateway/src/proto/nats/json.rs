//! As much JSON as the data path needs: flat objects read in place, and strings written.
//!
//! Servers answer with small objects whose members we know. Reading one borrows and allocates
//! nothing; a value that is itself an object or array comes as its text. Strict: what is no JSON
//! object is an error, and nothing is guessed. Source: RFC 8259.

/// Bytes that are no JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object")]
pub struct NotJson;

/// The value of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The text between the quotes, escapes and all: see [`Value::text`].
    String(&'a str),
    /// As written.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// An object with its braces: read on with [`members`].
    Object(&'a str),
    /// An array with its brackets: read on with [`elements`].
    Array(&'a str),
}

impl<'a> Value<'a> {
    /// A string in which nothing is escaped; `None` otherwise.
    #[must_use]
    pub fn plain(self) -> Option<&'a str> {
        match self {
            Self::String(raw) if !raw.contains('\\') => Some(raw),
            _ => None,
        }
    }

    /// A string with its escapes resolved; `None` for other values and unpaired surrogates.
    #[must_use]
    pub fn text(self) -> Option<String> {
        match self {
            Self::String(raw) => unescape(raw),
            _ => None,
        }
    }

    /// A whole number from 0 to `u64::MAX`; `None` for other values.
    #[must_use]
    pub fn u64(self) -> Option<u64> {
        match self {
            Self::Number(digits) => decimal(digits.as_bytes()),
            _ => None,
        }
    }

    /// `true` or `false`; `None` for other values.
    #[must_use]
    pub fn bool(self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }
}

/// Calls `visit` with key and value of each member of the object `text`, in order.
///
/// Keys come as written: none of those we look for contains anything to escape.
///
/// # Errors
///
/// [`NotJson`], perhaps after some calls: take nothing as true before this returns.
pub fn members<'a>(
    text: &'a [u8],
    mut visit: impl FnMut(&'a str, Value<'a>),
) -> Result<(), NotJson> {
    let text = std::str::from_utf8(text).map_err(|_| NotJson)?;
    let mut input = Input { text, at: 0 };
    input.sequence(b'{', b'}', |input| {
        let key = input.string()?;
        input.expect(b':')?;
        visit(key, input.value(DEPTH_MAX)?);
        Ok(())
    })?;
    input.finish()
}

/// Calls `visit` with each element of the array `text`, in order.
///
/// # Errors
///
/// As [`members`].
pub fn elements<'a>(text: &'a str, mut visit: impl FnMut(Value<'a>)) -> Result<(), NotJson> {
    let mut input = Input { text, at: 0 };
    input.sequence(b'[', b']', |input| {
        visit(input.value(DEPTH_MAX)?);
        Ok(())
    })?;
    input.finish()
}

/// Appends the UTF-8 text `text` as a JSON string, quotes included.
pub fn put_string(text: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text.as_ref() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1F => {
                out.extend_from_slice(b"\\u00");
                out.extend([byte >> 4, byte & 0xF].map(hex_digit));
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) }
}

/// The value of a run of decimal digits; `None` for anything else and above `u64::MAX`.
#[must_use]
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Text being read.
struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(|byte| b" \t\r\n".contains(byte)) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.peek() != Some(byte) {
            return Err(NotJson);
        }
        self.at += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), NotJson> {
        if self.peek().is_none() { Ok(()) } else { Err(NotJson) }
    }

    /// `open`, what `item` reads, behind commas again, `close`.
    fn sequence(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), NotJson>,
    ) -> Result<(), NotJson> {
        self.expect(open)?;
        if self.peek() == Some(close) {
            return self.expect(close);
        }
        loop {
            item(self)?;
            if self.peek() == Some(close) {
                return self.expect(close);
            }
            self.expect(b',')?;
        }
    }

    fn string(&mut self) -> Result<&'a str, NotJson> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let rest = self.text.as_bytes().get(self.at..).ok_or(NotJson)?;
            self.at += memchr::memchr2(b'"', b'\\', rest).ok_or(NotJson)?;
            if self.text.as_bytes().get(self.at) == Some(&b'"') {
                let raw = self.text.get(start..self.at).ok_or(NotJson)?;
                self.at += 1;
                return if raw.bytes().any(|byte| byte < b' ') { Err(NotJson) } else { Ok(raw) };
            }
            self.at += 2;
        }
    }

    fn value(&mut self, depth: u8) -> Result<Value<'a>, NotJson> {
        let first = self.peek().ok_or(NotJson)?;
        let start = self.at;
        match first {
            b'"' => return Ok(Value::String(self.string()?)),
            b'{' | b'[' => {
                let depth = depth.checked_sub(1).ok_or(NotJson)?;
                self.skip_nested(first, depth)?;
            }
            _ => {
                let rest = self.text.as_bytes().get(start..).ok_or(NotJson)?;
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                self.at += rest.iter().take_while(|byte| is_part(byte)).count();
            }
        }
        let raw = self.text.get(start..self.at).ok_or(NotJson)?;
        match (first, raw) {
            (b'{', _) => Ok(Value::Object(raw)),
            (b'[', _) => Ok(Value::Array(raw)),
            (_, "true") => Ok(Value::Bool(true)),
            (_, "false") => Ok(Value::Bool(false)),
            (_, "null") => Ok(Value::Null),
            (b'0'..=b'9' | b'-', _) if is_number(raw) => Ok(Value::Number(raw)),
            _ => Err(NotJson),
        }
    }

    fn skip_nested(&mut self, open: u8, depth: u8) -> Result<(), NotJson> {
        if open == b'[' {
            return self.sequence(b'[', b']', |input| input.value(depth).map(drop));
        }
        self.sequence(b'{', b'}', |input| {
            input.string()?;
            input.expect(b':')?;
            input.value(depth).map(drop)
        })
    }
}

/// Whether `text` is a number of JSON.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1
        && digits.starts_with('0')
        && digits.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let ends_in_digit = digits.ends_with(|last: char| last.is_ascii_digit());
    !leading_zero
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && ends_in_digit
        && digits.parse::<f64>().is_ok()
}

fn unescape(raw: &str) -> Option<String> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(place) = memchr::memchr(b'\\', rest.as_bytes()) {
        let (plain, escaped) = rest.split_at_checked(place)?;
        text.push_str(plain);
        let mut characters = escaped.chars().skip(1);
        let (character, escape_bytes) = match characters.next()? {
            character @ ('"' | '\\' | '/') => (character, 2),
            'b' => ('\u{8}', 2),
            'f' => ('\u{c}', 2),
            'n' => ('\n', 2),
            'r' => ('\r', 2),
            't' => ('\t', 2),
            'u' => code_point(escaped)?,
            _ => return None,
        };
        text.push(character);
        rest = escaped.get(escape_bytes..)?;
    }
    text.push_str(rest);
    Some(text)
}

/// The character of `\uXXXX`, or of two of them that are a surrogate pair, and their bytes.
fn code_point(escaped: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = escaped.get(at..at + 4)?;
        let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if all_hex { u32::from_str_radix(digits, 16).ok() } else { None }
    };
    let first = unit(2)?;
    if !(0xD800..0xDC00).contains(&first) {
        return Some((char::from_u32(first)?, 6));
    }
    let second = if escaped.get(6..8)? == "\\u" { unit(8)? } else { return None };
    let low = second.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + low)?, 12))
}

/// Objects in objects that are followed; answers of a server nest three deep.
const DEPTH_MAX: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<(&str, Value<'_>)>, NotJson> {
        let mut found = Vec::new();
        members(text.as_bytes(), |key, value| found.push((key, value))).map(|()| found)
    }

    #[test]
    fn reads_the_members_of_an_object() {
        assert_eq!(all("{}"), Ok(vec![]));
        assert_eq!(
            all(r#" {"a":"x\n","b": 12 ,"c":true,"d":null,"e":{"f":[1,{}]},"g":[],"h":-1.5e3} "#),
            Ok(vec![
                ("a", Value::String("x\\n")),
                ("b", Value::Number("12")),
                ("c", Value::Bool(true)),
                ("d", Value::Null),
                ("e", Value::Object(r#"{"f":[1,{}]}"#)),
                ("g", Value::Array("[]")),
                ("h", Value::Number("-1.5e3")),
            ])
        );
    }

    #[test]
    fn refuses_what_is_no_object() {
        for text in [
            "",
            "{",
            "}",
            "[]",
            "1",
            "{a:1}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1}x"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":tru}"#,
            r#"{"a":"x}"#,
            r#"{"a":"\"}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":[1 2]}"#,
            r#"{"a":+1}"#,
            r#"{"a":infinity}"#,
        ] {
            assert_eq!(all(text), Err(NotJson), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(16), "]".repeat(16));
        assert!(all(&deep).is_ok());
        let deeper = format!("{{\"a\":{}{}}}", "[".repeat(17), "]".repeat(17));
        assert_eq!(all(&deeper), Err(NotJson));
    }

    #[test]
    fn strings_are_unescaped() {
        for (raw, text) in [
            (r"plain", Some("plain")),
            (r"\u003e\n\\\/", Some(">\n\\/")),
            (r"\ud83d\ude00!", Some("\u{1F600}!")),
            (r"\ud83d", None),
            (r"\ud83dx", None),
            (r"\udc00", None),
            (r"\x", None),
            (r"\u+123", None),
        ] {
            assert_eq!(Value::String(raw).text().as_deref(), text, "{raw}");
        }
        assert_eq!(Value::String(r"\n").plain(), None);
    }

    #[test]
    fn a_written_string_reads_back() {
        for text in ["", "a.b", "q\"b\\s", "\u{1}\n\u{1F}", "\u{e9}\u{1F600}"] {
            let mut out = Vec::new();
            put_string(text, &mut out);
            let object = [b"{\"k\":", &out[..], b"}"].concat();
            let mut got = None;
            members(&object, |_, value| got = value.text()).unwrap();
            assert_eq!(got.as_deref(), Some(text));
        }
    }

    #[test]
    fn decimals_are_digits_within_64_bits() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for text in ["", "-1", "+1", "1 ", "18446744073709551616", "0x1"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
    }
}
