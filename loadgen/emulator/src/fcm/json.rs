//! JSON as a tree that keeps what protobuf's JSON mapping needs: the order of fields, and repeated
//! names.
//!
//! The parser bounds the depth (128), and the length of the body bounds everything else.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// The literal `null`, which protobuf's JSON mapping treats as absent.
    Null,
    /// The literal `true` or `false`.
    Bool(bool),
    /// A JSON number, as a double.
    Number(f64),
    /// A JSON string, unescaped.
    Text(String),
    /// A JSON array, in order.
    List(Vec<Node>),
    /// An object with unique names.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Parses a complete body.
    ///
    /// # Errors
    /// A description for the sender that quotes nothing of the body.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|e| {
            let what = match e.classify() {
                serde_json::error::Category::Eof => "Unexpected end of string",
                serde_json::error::Category::Data => "A name stands twice in an object",
                serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
                    "Unexpected token"
                }
            };
            format!(
                "Invalid JSON payload received. {what}, at line {} column {}",
                e.line(),
                e.column()
            )
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "numbers are only told from other things, and shown in errors"
    )]
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "numbers are only told from other things, and shown in errors"
    )]
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = from.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut fields: Vec<(String, Node)> = Vec::new();
        while let Some(field) = from.next_entry()? {
            fields.push(field);
        }
        let names: BTreeSet<_> = fields.iter().map(|(name, _)| name).collect();
        if names.len() < fields.len() {
            return Err(A::Error::custom("a name stands twice"));
        }
        Ok(Node::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_without_quoting_it() {
        for (body, what) in [
            (&b"{\"a\":"[..], "Unexpected end of string"),
            (b"{\"a\":secret}", "Unexpected token"),
            (b"{\"a\":1,\"a\":1}", "A name stands twice"),
            (b"{\"a\":\"\xff\"}", "Unexpected token"),
            (b"1e999999", "Unexpected token"),
        ] {
            let error = Node::read(body).expect_err("wrong");
            assert!(
                error.starts_with("Invalid JSON payload received. ") && error.contains(what),
                "{error}"
            );
            assert!(!error.contains("secret"));
        }
        assert!(Node::read("[".repeat(20_000).as_bytes()).is_err(), "depth is bounded");
        assert!(Node::read(&[b"[".repeat(127), b"]".repeat(127)].concat()).is_ok());
    }
}
