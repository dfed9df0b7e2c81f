//! Parser for conditions on segments, by recursive descent: one function per precedence.
//!
//! ```text
//! or      = and  *( "OR" and )
//! and     = not  *( "AND" not )
//! not     = "NOT" not / primary
//! primary = name / "(" or ")"
//! ```

use super::{
    EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, EXPRESSION_NAMES_MAX, Node, Segment,
    is_segment_char,
};
use crate::error::InvalidField;

/// Parses a whole expression. `None`: the text is empty or has only spaces.
pub(super) fn parse(text: &str) -> Result<Option<Node>, InvalidField> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(problem(format_args!(
            "must be at most {EXPRESSION_BYTES_MAX} bytes; got {} bytes",
            text.len()
        )));
    }
    let mut parser = Parser { text, at: 0, names: 0, depth: 0 };
    if parser.peek()? == Token::End {
        return Ok(None);
    }
    let node = parser.or()?;
    match parser.peek()? {
        Token::End => Ok(Some(node)),
        other => Err(parser.expected("AND, OR or the end", other)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    And,
    Or,
    Not,
    Open,
    Close,
    End,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    names: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Node, InvalidField> {
        let mut left = self.and()?;
        while self.take_token(Token::Or)? {
            left = Node::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Node, InvalidField> {
        let mut left = self.not()?;
        while self.take_token(Token::And)? {
            left = Node::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Node, InvalidField> {
        if self.take_token(Token::Not)? {
            return self.nested(|p| Ok(Node::Not(Box::new(p.not()?))));
        }
        if self.take_token(Token::Open)? {
            return self.nested(|p| {
                let inner = p.or()?;
                match p.take_token(Token::Close)? {
                    true => Ok(inner),
                    false => Err(p.expected("AND, OR or ')'", p.peek()?)),
                }
            });
        }
        self.name()
    }

    fn name(&mut self) -> Result<Node, InvalidField> {
        let token = self.peek()?;
        let Token::Name(name) = token else {
            return Err(self.expected("a segment, NOT or '('", token));
        };
        let segment = Segment::new(name).map_err(|e| {
            problem(format_args!("the name at byte {} {}", self.start(), e.problem))
        })?;
        self.names += 1;
        if self.names > EXPRESSION_NAMES_MAX {
            return Err(problem(format_args!(
                "must have at most {EXPRESSION_NAMES_MAX} names; got more"
            )));
        }
        self.take_token(token)?;
        Ok(Node::Name(segment))
    }

    fn nested(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Node, InvalidField>,
    ) -> Result<Node, InvalidField> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            let words = format_args!(
                "must have at most {EXPRESSION_DEPTH_MAX} nested parentheses and NOTs; got more"
            );
            return Err(problem(words));
        }
        let node = inner(self)?;
        self.depth -= 1;
        Ok(node)
    }

    fn take_token(&mut self, wanted: Token<'a>) -> Result<bool, InvalidField> {
        let (token, end) = self.scan()?;
        if token == wanted {
            self.at = end;
        }
        Ok(token == wanted)
    }

    fn peek(&self) -> Result<Token<'a>, InvalidField> {
        self.scan().map(|(token, _)| token)
    }

    /// Byte at which the next token begins.
    fn start(&self) -> usize {
        let rest = &self.text[self.at..];
        self.at + rest.len() - rest.trim_start_matches(is_space).len()
    }

    /// Next token, and the byte at which it ends.
    fn scan(&self) -> Result<(Token<'a>, usize), InvalidField> {
        let start = self.start();
        let rest = &self.text[start..];
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start)) };
        if first == '(' || first == ')' {
            return Ok((if first == '(' { Token::Open } else { Token::Close }, start + 1));
        }
        let word = |c: char| c.is_ascii_uppercase() || is_segment_char(c);
        let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let token = match &rest[..length] {
            "" => {
                return Err(problem(format_args!(
                    "unexpected character {first:?} at byte {start}"
                )));
            }
            "AND" => Token::And,
            "OR" => Token::Or,
            "NOT" => Token::Not,
            name => Token::Name(name),
        };
        Ok((token, start + length))
    }

    fn expected(&self, what: &str, found: Token<'_>) -> InvalidField {
        let found = match found {
            Token::Name(_) => "a name",
            Token::And => "AND",
            Token::Or => "OR",
            Token::Not => "NOT",
            Token::Open => "'('",
            Token::Close => "')'",
            Token::End => "the end",
        };
        problem(format_args!("expected {what} at byte {}, found {found}", self.start()))
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn problem(words: std::fmt::Arguments<'_>) -> InvalidField {
    InvalidField::new("", words)
}
