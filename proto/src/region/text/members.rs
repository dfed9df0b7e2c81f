//! Members of JSON objects: each name once, and only those that matter for a region.
//!
//! JSON leaves open what a name means that an object has twice, and programs differ: one reads the
//! first, another the last. A region must not depend on that.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::SHOWN_CHARS;

/// Members of GeoJSON objects that a region ignores, whatever they hold.
const IGNORED: [&str; 3] = ["properties", "bbox", "id"];

/// Parses a text, without the ignored members.
pub(super) fn read(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str::<Unique>(text).map(|Unique(value)| value)
}

/// A value whose objects have no name twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if IGNORED.contains(&name.as_str()) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            if object.contains_key(&name) {
                let name: String = name.chars().take(SHOWN_CHARS / 2).collect();
                return Err(A::Error::custom(format_args!("an object has {name:?} twice")));
            }
            // The members of `crs` matter, also those called `properties`.
            let value = if name == "crs" {
                members.next_value()?
            } else {
                members.next_value::<Unique>()?.0
            };
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}
