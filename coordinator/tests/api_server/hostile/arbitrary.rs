//! Arbitrary well-formed messages of any type, from its descriptor: each field is there or not, with values that are
//! likely to hurt (limits, not numbers, names that exist) beside any others.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

/// Messages within each other; deeper than the contract allows regions.
const DEPTH_MAX: usize = 7;

/// Encoded messages of a type.
pub(super) fn message(descriptor: &MessageDescriptor) -> BoxedStrategy<Bytes> {
    nested(descriptor, DEPTH_MAX).prop_map(|message| message.encode_to_vec().into()).boxed()
}

fn nested(descriptor: &MessageDescriptor, depth: usize) -> BoxedStrategy<DynamicMessage> {
    let empty = DynamicMessage::new(descriptor.clone());
    if depth == 0 {
        return Just(empty).boxed();
    }
    let fields: Vec<_> = descriptor.fields().collect();
    // Strategies are made when they are drawn from: a tree of all that could be would be larger than any message.
    let given = proptest::collection::vec(0_u8..10, fields.len());
    given
        .prop_flat_map(move |given| {
            let present = fields.iter().zip(given).filter(|(_, given)| *given < 7);
            let values: Vec<_> =
                present.map(|(field, _)| (Just(field.clone()), values(field, depth))).collect();
            let empty = empty.clone();
            values.prop_map(move |values| {
                let mut message = empty.clone();
                for (field, value) in values {
                    // Of a oneof the last one stays.
                    message.set_field(&field, value);
                }
                message
            })
        })
        .boxed()
}

fn values(field: &FieldDescriptor, depth: usize) -> BoxedStrategy<Value> {
    if field.is_map() {
        let value = field.kind();
        let entry = value.as_message().expect("maps are of entries").map_entry_value_field();
        let key = words().prop_map(MapKey::String);
        let pairs = proptest::collection::vec((key, one(&entry.kind(), depth)), 0..4);
        return pairs.prop_map(|pairs| Value::Map(pairs.into_iter().collect())).boxed();
    }
    let one = one(&field.kind(), depth);
    match field.cardinality() {
        Cardinality::Repeated => proptest::collection::vec(one, 0..4).prop_map(Value::List).boxed(),
        Cardinality::Optional | Cardinality::Required => one,
    }
}

fn one(kind: &Kind, depth: usize) -> BoxedStrategy<Value> {
    match kind {
        Kind::Double => numbers().prop_map(Value::F64).boxed(),
        #[allow(clippy::cast_possible_truncation)] // any number will do
        Kind::Float => numbers().prop_map(|n| Value::F32(n as f32)).boxed(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            prop_oneof![Just(0), Just(1), Just(-1), Just(1_000), any::<i32>()]
                .prop_map(Value::I32)
                .boxed()
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            // 2020 to 2060 among them: times.
            prop_oneof![
                Just(0),
                Just(-1),
                Just(i64::MAX),
                any::<i64>(),
                1_577_836_800_i64..2_840_140_800
            ]
            .prop_map(Value::I64)
            .boxed()
        }
        Kind::Uint32 | Kind::Fixed32 => {
            prop_oneof![Just(0), Just(1), any::<u32>()].prop_map(Value::U32).boxed()
        }
        Kind::Uint64 | Kind::Fixed64 => {
            // Cells of resolutions 6, 9 and 10 among them.
            let cells = [0x86411ca07ffffff, 0x89411ca0003ffff, 0x8a411ca00007fff];
            prop_oneof![Just(0), prop::sample::select(cells.to_vec()), any::<u64>()]
                .prop_map(Value::U64)
                .boxed()
        }
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::String => words().prop_map(Value::String).boxed(),
        Kind::Bytes => proptest::collection::vec(any::<u8>(), 0..100)
            .prop_map(|b| Value::Bytes(Bytes::from(b)))
            .boxed(),
        Kind::Enum(_) => {
            prop_oneof![4 => 0..4, 1 => any::<i32>()].prop_map(Value::EnumNumber).boxed()
        }
        Kind::Message(descriptor) => nested(descriptor, depth - 1).prop_map(Value::Message).boxed(),
    }
}

fn numbers() -> BoxedStrategy<f64> {
    let special =
        [0.0, -0.0, 22.5, 114.0, 90.0, -90.0, 91.0, 180.0, 12_000.0, 1e7, 1e300, f64::MIN_POSITIVE];
    let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    prop_oneof![
        4 => prop::sample::select(special.to_vec()),
        1 => prop::sample::select(wild.to_vec()),
        4 => -180.0..180.0,
        1 => any::<f64>(),
    ]
    .boxed()
}

fn words() -> BoxedStrategy<String> {
    let known = [
        "",
        "en",
        "zh-Hant",
        "apps/victim",
        "apps/none",
        "victim",
        "alerts/a1",
        "apns",
        "team",
        "a AND NOT b",
        "((",
        "https://a",
        "5b2f8e4e-0f6e-4a0e-9f61-7a0f3c1f0b11",
        "display_name",
        "abcdef",
        "\0",
        "\u{202e}",
    ];
    prop_oneof![
        6 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        2 => "[a-z/]{0,20}",
        1 => ".{0,40}",
        1 => "x{3000,6000}",
    ]
    .boxed()
}
