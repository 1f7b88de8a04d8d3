//! Rewrites a template's source for the engine, whose syntax differs from Jinja2's in a few places:
//!
//! | source | becomes | why |
//! |---|---|---|
//! | `\r\n`, `\r` | `\n` | Jinja2 knows one line end |
//! | `{% generation %}` … `{% endgeneration %}` | `{% with %}` … `{% endwith %}` | transformers' mark of what the assistant says, for training; variables set inside stay inside |
//! | `a % b` | `__mod__(a , b)` | the engine's `%` takes numbers only, Python's formats strings too |
//! | `+a` | `a` | the engine has no unary plus |
//! | `"\/"` | `"\\/"` | Python keeps the backslash of an unknown escape |
//!
//! Nothing moves to another line, so that errors name the right one. What cannot be parsed (an unclosed tag) is left
//! as it is: the engine reports the error.

use std::borrow::Cow;

use super::tokens::{Kind, Token, tokens};

/// The function that `%` becomes.
pub(super) const MODULO: &str = "__mod__";

/// Deepest nesting of brackets in which `%` is read. The engine itself gives up earlier.
const MAX_DEPTH: usize = 500;

/// Names that are no operands.
const KEYWORDS: [&str; 8] = ["and", "or", "not", "in", "is", "if", "else", "elif"];

/// The source as the engine takes it.
pub(super) fn adapted(source: &str) -> Cow<'_, str> {
    let source = match source.contains('\r') {
        true => Cow::Owned(source.replace("\r\n", "\n").replace('\r', "\n")),
        false => Cow::Borrowed(source),
    };
    let mut edits = Vec::new();
    scan(&source, &mut edits);
    if edits.is_empty() {
        return source;
    }
    // Where several meet, what ends an operand comes before what begins one.
    edits.sort_by_key(|e| (e.at, e.opens));
    let mut out = String::with_capacity(source.len() + 16 * edits.len());
    let mut done = 0;
    for edit in &edits {
        out.push_str(&source[done..edit.at]);
        out.push_str(edit.text);
        done = edit.at + edit.removed;
    }
    out.push_str(&source[done..]);
    Cow::Owned(out)
}

/// A change of the source.
struct Edit {
    at: usize,
    removed: usize,
    text: &'static str,
    opens: bool,
}

impl Edit {
    fn replace(at: usize, removed: usize, text: &'static str) -> Self {
        Self { at, removed, text, opens: false }
    }
}

/// Goes through the tags of a template.
fn scan(source: &str, edits: &mut Vec<Edit>) {
    let bytes = source.as_bytes();
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        at += found + 1;
        match bytes.get(at) {
            Some(b'#') => match source[at..].find("#}") {
                Some(end) => at += end + 2,
                None => return,
            },
            Some(b'{') => match tokens(source, at + 1, b'}') {
                Some((tokens, end)) => {
                    rewrite(source, &tokens, edits);
                    at = end;
                }
                None => return,
            },
            Some(b'%') => match tag(source, at + 1, edits) {
                Some(end) => at = end,
                None => return,
            },
            _ => {}
        }
    }
}

/// Reads a `{% … %}` from behind its `{%`; returns where it ends.
fn tag(source: &str, at: usize, edits: &mut Vec<Edit>) -> Option<usize> {
    let (tokens, end) = tokens(source, at, b'%')?;
    let tokens = match tokens.first() {
        // The mark of whitespace control.
        Some(first) if first.start == at && matches!(first.kind, Kind::Minus | Kind::Plus) => &tokens[1..],
        _ => &tokens[..],
    };
    let Some((word, rest)) = tokens.split_first() else { return Some(end) };
    match (&source[word.start..word.end], rest.is_empty()) {
        ("raw", true) => return end_of_raw(source, end),
        ("generation", true) => edits.push(Edit::replace(word.start, word.end - word.start, "with")),
        ("endgeneration", true) => edits.push(Edit::replace(word.start, word.end - word.start, "endwith")),
        _ => rewrite(source, rest, edits),
    }
    Some(end)
}

/// Where the tag that ends raw text ends.
fn end_of_raw(source: &str, mut at: usize) -> Option<usize> {
    loop {
        at += source[at..].find("{%")? + 2;
        let tag = source[at..].trim_start_matches(['-', '+']).trim_start();
        let Some(rest) = tag.strip_prefix("endraw") else { continue };
        let rest = rest.trim_start().trim_start_matches(['-', '+']);
        if let Some(rest) = rest.strip_prefix("%}") {
            return Some(source.len() - rest.len());
        }
    }
}

/// Rewrites the operators of an expression.
fn rewrite(source: &str, tokens: &[Token], edits: &mut Vec<Edit>) {
    for text in tokens.iter().filter(|t| t.kind == Kind::Text) {
        let mut at = text.start;
        while let Some(found) = source[at..text.end].find('\\') {
            at += found;
            if source.as_bytes()[at + 1] == b'/' {
                edits.push(Edit::replace(at, 0, "\\"));
            }
            // The escaped character may be of several bytes.
            at += 1 + source[at + 1..].chars().next().map_or(0, char::len_utf8);
        }
    }
    if tokens.iter().any(|t| matches!(t.kind, Kind::Percent | Kind::Plus)) {
        let mut operators = Operators { source, tokens, at: 0, depth: 0, edits: Vec::new() };
        operators.list();
        // All or nothing: nesting deeper than is read.
        if operators.at == tokens.len() {
            edits.append(&mut operators.edits);
        }
    }
}

/// Finds the operands of `%`: in Jinja, `*`, `/`, `//` and `%` have one precedence, from the left, above `~`, which
/// is above `+` and `-`; `**`, signs, filters and tests are above all of them.
struct Operators<'a> {
    source: &'a str,
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    edits: Vec<Edit>,
}

impl Operators<'_> {
    fn kind(&self) -> Option<Kind> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    /// The next token, if it is a name.
    fn name(&self) -> Option<&str> {
        let token = self.tokens.get(self.at).filter(|t| t.kind == Kind::Name)?;
        Some(&self.source[token.start..token.end])
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.name() == Some(name);
        self.at += usize::from(found);
        found
    }

    /// Operands and what is between them, up to the closing bracket.
    fn list(&mut self) {
        let mut after_operand = false;
        while let Some(kind) = self.kind() {
            let operand = match kind {
                Kind::Close if self.depth > 0 => return,
                Kind::Name => self.name().is_some_and(|name| !KEYWORDS.contains(&name)),
                Kind::Text | Kind::Number | Kind::Open(_) => true,
                // A sign where no operand is before it; else an operator.
                Kind::Plus | Kind::Minus => !after_operand,
                Kind::Close
                | Kind::Percent
                | Kind::Times
                | Kind::Power
                | Kind::Dot
                | Kind::Pipe
                | Kind::Other => false,
            };
            match operand {
                true => self.product(),
                false => self.at += 1,
            }
            after_operand = operand;
        }
    }

    fn product(&mut self) {
        let start = self.tokens[self.at].start;
        self.power();
        while let Some(kind @ (Kind::Times | Kind::Percent)) = self.kind() {
            let operator = self.tokens[self.at];
            self.at += 1;
            self.power();
            if kind == Kind::Percent {
                let Some(end) = self.tokens.get(self.at - 1).map(|t| t.end) else { return };
                self.edits.push(Edit { at: start, removed: 0, text: "__mod__(", opens: true });
                self.edits.push(Edit::replace(operator.start, 1, ","));
                self.edits.push(Edit::replace(end, 0, ")"));
            }
        }
    }

    fn power(&mut self) {
        self.signed();
        while self.kind() == Some(Kind::Power) {
            self.at += 1;
            self.signed();
        }
    }

    fn signed(&mut self) {
        while let Some(kind @ (Kind::Plus | Kind::Minus)) = self.kind() {
            if kind == Kind::Plus {
                self.edits.push(Edit::replace(self.tokens[self.at].start, 1, ""));
            }
            self.at += 1;
        }
        self.primary();
        self.postfix();
        self.filters();
    }

    fn primary(&mut self) {
        match self.kind() {
            Some(Kind::Text) => {
                while self.kind() == Some(Kind::Text) {
                    self.at += 1;
                }
            }
            Some(Kind::Name | Kind::Number) => self.at += 1,
            Some(Kind::Open(_)) => self.brackets(),
            _ => {}
        }
    }

    fn brackets(&mut self) {
        if self.depth == MAX_DEPTH {
            // The end is never reached, and nothing is changed.
            self.tokens = &self.tokens[..self.at];
            self.at = usize::MAX;
            return;
        }
        self.at += 1;
        self.depth += 1;
        self.list();
        self.depth -= 1;
        if self.kind() == Some(Kind::Close) {
            self.at += 1;
        }
    }

    fn postfix(&mut self) {
        loop {
            match self.kind() {
                Some(Kind::Dot) => {
                    self.at += 1;
                    if matches!(self.kind(), Some(Kind::Name | Kind::Number)) {
                        self.at += 1;
                    }
                }
                Some(Kind::Open(b'(' | b'[')) => self.brackets(),
                _ => return,
            }
        }
    }

    fn filters(&mut self) {
        loop {
            if self.kind() == Some(Kind::Pipe) {
                self.at += 1;
                self.dotted_name();
                if self.kind() == Some(Kind::Open(b'(')) {
                    self.brackets();
                }
            } else if self.skip_name("is") {
                self.skip_name("not");
                self.dotted_name();
                let argument = match self.kind() {
                    Some(Kind::Name) => self.name().is_some_and(|name| !KEYWORDS.contains(&name)),
                    Some(Kind::Text | Kind::Number | Kind::Open(_)) => true,
                    _ => false,
                };
                if argument {
                    self.primary();
                    self.postfix();
                }
            } else {
                return;
            }
        }
    }

    fn dotted_name(&mut self) {
        while self.kind() == Some(Kind::Name) {
            self.at += 1;
            if self.kind() != Some(Kind::Dot) {
                return;
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_found() {
        for (source, expected) in [
            ("{{ a % b }}", "{{ __mod__(a , b) }}"),
            ("{{a%b}}", "{{__mod__(a,b)}}"),
            ("{{ a % b % c }}", "{{ __mod__(__mod__(a , b) , c) }}"),
            ("{{ 2 * a % b + 1 }}", "{{ __mod__(2 * a , b) + 1 }}"),
            ("{{ x ~ '%s' % y | trim ~ z }}", "{{ x ~ __mod__('%s' , y | trim) ~ z }}"),
            ("{{ - a.b[0](c % d) % 2 ** 3 }}", "{{ __mod__(- a.b[0](__mod__(c , d)) , 2 ** 3) }}"),
            ("{% if a % 2 == 0 and b %}", "{% if __mod__(a , 2) == 0 and b %}"),
            ("{%- if not a % 2 is odd -%}", "{%- if not __mod__(a , 2 is odd) -%}"),
            ("{% set x = '%}' % [1 % 2] %}", "{% set x = __mod__('%}' , [__mod__(1 , 2)]) %}"),
            ("{{ {'a': b % c} }} a % b", "{{ {'a': __mod__(b , c)} }} a % b"),
            ("{{ + a }}{{ a + b }}", "{{  a }}{{ a + b }}"),
            ("{# a % b #}{{ '\\/\\\\/' }}", "{# a % b #}{{ '\\\\/\\\\/' }}"),
            ("{% raw %}{{ a % b }}{% endraw %}", "{% raw %}{{ a % b }}{% endraw %}"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("{%- generation -%} a {% endgeneration %}", "{%- with -%} a {% endwith %}"),
            ("{{ generation % endgeneration }}", "{{ __mod__(generation , endgeneration) }}"),
        ] {
            assert_eq!(adapted(source), expected);
        }
    }

    #[test]
    fn what_cannot_be_read_stays() {
        let deep = format!("{{{{ {}1 % 2{} }}}}", "(".repeat(9999), ")".repeat(9999));
        for source in
            ["{{ a % b", "{{ 'a % b }}", "{% if a % b", "{{ ) % ( }", "{# a % b", "{% raw %} a", &deep, "{"]
        {
            assert_eq!(adapted(source), source);
        }
    }
}
