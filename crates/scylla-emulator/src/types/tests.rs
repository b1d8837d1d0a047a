use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use scylla::value::CqlTimeuuid;
use uuid::Uuid;

use super::*;

/// A type with a value of it.
fn typed(depth: u32) -> BoxedStrategy<(CqlType, Value)> {
    let big = || prop::collection::vec(any::<u8>(), 1..20).prop_map(|bytes| decode_varint(&bytes));
    let timeuuid = || {
        (any::<i64>(), any::<u64>())
            .prop_map(|(ticks, low)| Value::TimeUuid(timeuuid_from_parts(ticks >> 8, 3, low)))
    };
    let of = |ty: CqlType, value: BoxedStrategy<Value>| {
        value.prop_map(move |value| (ty.clone(), value)).boxed()
    };
    let duration = || {
        (any::<i32>(), any::<i32>(), any::<i64>()).prop_map(|(months, days, nanos)| {
            Value::Duration(Duration {
                months,
                days,
                nanos,
            })
        })
    };
    let decimal = (big(), any::<i32>())
        .prop_map(|(unscaled, scale)| Value::Decimal(Decimal { unscaled, scale }));
    let mut all = vec![
        of(CqlType::Ascii, "[ -~]{0,20}".prop_map(Value::Text).boxed()),
        of(CqlType::Text, any::<String>().prop_map(Value::Text).boxed()),
        of(
            CqlType::BigInt,
            any::<i64>().prop_map(Value::BigInt).boxed(),
        ),
        of(
            CqlType::Counter,
            any::<i64>().prop_map(Value::Counter).boxed(),
        ),
        of(
            CqlType::Blob,
            any::<Vec<u8>>().prop_map(|b| Value::Blob(b.into())).boxed(),
        ),
        of(
            CqlType::Boolean,
            any::<bool>().prop_map(Value::Boolean).boxed(),
        ),
        of(CqlType::Date, any::<u32>().prop_map(Value::Date).boxed()),
        of(CqlType::Decimal, decimal.boxed()),
        of(
            CqlType::Double,
            any::<f64>().prop_map(Value::Double).boxed(),
        ),
        of(CqlType::Duration, duration().boxed()),
        of(CqlType::Float, any::<f32>().prop_map(Value::Float).boxed()),
        of(CqlType::Inet, any::<IpAddr>().prop_map(Value::Inet).boxed()),
        of(CqlType::Int, any::<i32>().prop_map(Value::Int).boxed()),
        of(CqlType::Int, Just(Value::Empty).boxed()),
        of(
            CqlType::SmallInt,
            any::<i16>().prop_map(Value::SmallInt).boxed(),
        ),
        of(
            CqlType::TinyInt,
            any::<i8>().prop_map(Value::TinyInt).boxed(),
        ),
        of(
            CqlType::Time,
            (0..86_400_000_000_000_i64).prop_map(Value::Time).boxed(),
        ),
        of(
            CqlType::Timestamp,
            any::<i64>().prop_map(Value::Timestamp).boxed(),
        ),
        of(CqlType::TimeUuid, timeuuid().boxed()),
        of(
            CqlType::Uuid,
            any::<u128>()
                .prop_map(|n| Value::Uuid(Uuid::from_u128(n)))
                .boxed(),
        ),
        of(CqlType::VarInt, big().prop_map(Value::VarInt).boxed()),
    ];
    if depth > 0 {
        all.push(collections(depth));
    }
    prop::strategy::Union::new(all).boxed()
}

fn collections(depth: u32) -> BoxedStrategy<(CqlType, Value)> {
    // One value several times: the elements of a collection have one type.
    let element = || (typed(depth - 1), 0..3_usize);
    let list = element().prop_map(|((ty, value), count)| {
        (CqlType::List(Box::new(ty)), Value::List(vec![value; count]))
    });
    let set = element().prop_map(|((ty, value), count)| {
        (
            CqlType::Set(Box::new(ty)).frozen(),
            Value::set(vec![value; count]),
        )
    });
    let map = (element(), typed(depth - 1)).prop_map(|(((key, k), count), (value, v))| {
        (
            CqlType::Map(Box::new(key), Box::new(value)),
            Value::map(vec![(k, v); count]),
        )
    });
    let tuple = prop::collection::vec((typed(depth - 1), any::<bool>()), 1..4).prop_map(|fields| {
        let values = fields
            .iter()
            .map(|((_, value), set)| set.then(|| value.clone()))
            .collect();
        let types: Vec<CqlType> = fields.into_iter().map(|((ty, _), _)| ty).collect();
        (types, Value::Tuple(values))
    });
    (list, set, map, tuple, 0..5_u8)
        .prop_map(|(list, set, map, (types, fields), which)| match which {
            0 => list,
            1 => set,
            2 => map,
            3 => (CqlType::Tuple(types), fields),
            _ => {
                let names = types
                    .into_iter()
                    .enumerate()
                    .map(|(at, ty)| (format!("f{at}"), ty));
                let udt = UserType {
                    keyspace: "ks".into(),
                    name: "u".into(),
                    fields: names.collect(),
                };
                (CqlType::Udt(Arc::new(udt)), fields)
            }
        })
        .boxed()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn values_survive_their_bytes((ty, value) in typed(2)) {
        let bytes = encode(&value);
        let back = decode(&ty, &bytes);
        prop_assert_eq!(back.as_ref(), Ok(&value), "{}", ty);
        prop_assert_eq!(encode(&back.expect("decoded")), bytes);
    }

    #[test]
    fn any_bytes_decode_or_fail((ty, _) in typed(2), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(value) = decode(&ty, &Bytes::from(bytes)) {
            prop_assert_eq!(decode(&ty, &encode(&value)), Ok(value));
        }
    }

    #[test]
    fn timeuuids_sort_as_the_driver_sorts_them(
        a in any::<(u64, u64)>(),
        b in any::<(u64, u64)>(),
        same_time in any::<bool>(),
    ) {
        let version_1 = |(high, low): (u64, u64)| Uuid::from_u64_pair((high & !0xf000) | 0x1000, low);
        let (a, b) = (version_1(a), version_1(if same_time { (a.0, b.1) } else { b }));
        let ours = Value::TimeUuid(a).cmp(&Value::TimeUuid(b));
        let theirs = CqlTimeuuid::from_bytes(*a.as_bytes()).cmp(&CqlTimeuuid::from_bytes(*b.as_bytes()));
        prop_assert_eq!(ours, theirs);
        prop_assert_eq!(Value::TimeUuid(b).cmp(&Value::TimeUuid(a)), ours.reverse());
    }

    #[test]
    fn the_order_of_a_type_is_total(a in any::<u8>(), values in prop::collection::vec(typed(1), 3)) {
        let _ = a;
        let [(_, a), (_, b), (_, c)] = &values[..] else { return Ok(()) };
        prop_assert_eq!(a.cmp(b), b.cmp(a).reverse());
        if a <= b && b <= c {
            prop_assert!(a <= c);
        }
    }
}

#[test]
fn timeuuids_carry_their_time() {
    for micros in [0, 1, 1_700_000_000_123_456, -5] {
        let uuid = timeuuid_from_parts(micros, 7, 0x8080_8080_8080_8080);
        assert_eq!(uuid.get_version_num(), 1);
        assert_eq!(timeuuid_micros(&uuid), micros);
    }
}

#[test]
fn decimals_compare_by_value() {
    let d = |text: &str| Decimal::parse(text).expect("a number");
    for (less, more) in [
        ("-2", "-1"),
        ("-1", "0"),
        ("0.9", "1"),
        ("1", "1.01"),
        ("9", "1e30"),
        ("-1e30", "-9"),
    ] {
        assert!(d(less) < d(more), "{less} {more}");
    }
    assert_eq!(d("1.50").to_string(), "1.50");
    assert_eq!(d("-0.05").to_string(), "-0.05");
    assert!(Decimal::parse("1.-5").is_none());
    // Scales far apart cost nothing.
    assert!(
        Decimal {
            unscaled: 1.into(),
            scale: i32::MAX
        } < Decimal {
            unscaled: 1.into(),
            scale: i32::MIN
        }
    );
}

#[test]
fn types_by_name() {
    let map = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Int)).frozen();
    assert_eq!(map.to_string(), "frozen<map<text, int>>");
    assert_eq!(
        CqlType::Tuple(vec![CqlType::Int, map]).to_string(),
        "frozen<tuple<int, frozen<map<text, int>>>>"
    );
    assert_eq!(CqlType::native("varchar"), Some(CqlType::Text));
}
