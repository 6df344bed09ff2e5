//! JSON as RTCBot's users know it: a message arrives as the value that was put, and is sent on as
//! it came.

mod testkit;

use std::collections::BTreeMap;

use proptest::prelude::*;
use rtcbot_websocket::{Error, Message, Options, Websocket, json};
use serde_json::Value;
use testkit::{DEADLINE, pair, pair_with};

/// A client that sends text unchanged, and a server in JSON mode.
fn plain_client() -> (Websocket, Websocket) {
    pair_with(&Options::new().json(false), &Options::new())
}

/// Returns the messages that arrive in JSON mode for these texts.
fn arrivals(texts: &[String]) -> Vec<Message> {
    let (client, server) = plain_client();
    texts
        .iter()
        .map(|text| {
            client.put(text.as_str()).unwrap();
            server.get_timeout(DEADLINE).unwrap()
        })
        .collect()
}

/// Texts that Python's json and every browser read, and serde_json does not or reads differently;
/// with their values.
fn odd() -> Vec<(&'static str, Value)> {
    vec![
        ("NaN", json!(null)),
        (" [NaN, Infinity,-Infinity\t] ", json!([null, null, null])),
        (
            r#"{"NaN": NaN, "a": "Infinity"}"#,
            json!({"NaN": null, "a": "Infinity"}),
        ),
        ("1e400", json!(null)),
        ("[-1E+400, 1e308, 0.1e-400]", json!([null, 1e308, 0.0])),
        (r#""\ud800""#, json!("\u{fffd}")),
        (r#""\udc00\ud83d""#, json!("\u{fffd}\u{fffd}")),
        (
            r#""\ud83d\ud83d\ude00\\ud800""#,
            json!("\u{fffd}\u{1F600}\\ud800"),
        ),
        (
            r#"{"\uDbfF": ["\ud83e\udd16"]}"#,
            json!({"\u{fffd}": ["\u{1F916}"]}),
        ),
        (r#"[NaN, "\ud800", 1e999]"#, json!([null, "\u{fffd}", null])),
        ("18446744073709551616", json!(18446744073709551616.0)),
        ("-9223372036854775809", json!(-9223372036854775809.0)),
        ("-0", json!(-0.0)),
        ("\r\n\t 1 \n", json!(1)),
        (r#"{"a": 1, "a": 2}"#, json!({"a": 2})),
        ("\"\u{7f}\u{2028}\"", json!("\u{7f}\u{2028}")),
    ]
}

#[test]
fn a_number_arrives_as_it_was_put() {
    let (client, server) = pair();
    for number in [1.5777777777770001, 0.1 + 0.2, 5e-324, f64::MAX, 1.0, -0.0] {
        client.put(json!([number])).unwrap();
        assert_eq!(server.get_timeout(DEADLINE).unwrap(), json!([number]));
    }
    for number in [i64::MIN, -1, i64::MAX] {
        client.put(number).unwrap();
        assert_eq!(server.get_timeout(DEADLINE).unwrap(), json!(number));
    }
    client.put(u64::MAX).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), json!(u64::MAX));
}

#[test]
fn json_that_python_reads_arrives_as_json_with_its_original_text() {
    let texts: Vec<_> = odd().iter().map(|(text, _)| (*text).to_owned()).collect();
    for ((text, value), arrived) in odd().iter().zip(arrivals(&texts)) {
        assert_eq!(arrived.as_json(), Some(value), "{text}");
        assert_eq!(arrived.to_string(), *text);
        assert_eq!(&arrived.decode::<Value>().unwrap(), value, "{text}");
        // In JSON mode or not, the text is the same.
        assert_eq!(&Message::from(*text).decode::<Value>().unwrap(), value);
        assert_eq!(
            &Message::from(text.as_bytes()).decode::<Value>().unwrap(),
            value
        );
    }
}

#[test]
fn json_that_python_and_browsers_refuse_arrives_as_text() {
    let texts = [
        "",
        " ",
        "\u{feff}1",
        "\u{a0}1",
        "1 2",
        "1,",
        "{}{}",
        "[1,]",
        r#"{"a":1,}"#,
        "{a:1}",
        "{1:1}",
        "'a'",
        r#"{"a"}"#,
        r#"{NaN:1}"#,
        "01",
        "+1",
        ".5",
        "1.",
        "0x1",
        "1e",
        "-",
        "- 1",
        "--1",
        "1_000",
        "nan",
        "inf",
        "Nan",
        "NaN1",
        "-NaN",
        "NaNNaN",
        "1NaN",
        "[NaN 1]",
        "[NaN,]",
        "Infinit",
        "Infinityy",
        "--Infinity",
        "+Infinity",
        "1-Infinity",
        "[Infinity",
        "[NaN,01e400]",
        "[NaN,1.e400]",
        "True",
        "None",
        "nul",
        "nulll",
        "undefined",
        "// 1",
        "/**/1",
        "\"",
        "\"\t\"",
        "\"\n\"",
        r#""\x41""#,
        r#""\u12""#,
        r#""\u00 0""#,
        r#""\ud8""#,
        "\"\\",
        "[\"NaN]",
        "hello",
    ];
    let texts = texts.map(str::to_owned);
    for (text, arrived) in texts.iter().zip(arrivals(&texts)) {
        assert!(arrived.as_json().is_none(), "{text}");
        assert_eq!(arrived, text.as_str());
        assert!(arrived.decode::<Value>().is_err(), "{text}");
    }
}

#[test]
fn json_that_is_nested_too_deeply_arrives_as_text() {
    let deep = |depth: usize, inner: &str| "[".repeat(depth) + inner + &"]".repeat(depth);
    let objects = |depth: usize| r#"{"":"#.repeat(depth) + "0" + &"}".repeat(depth);
    let brackets = "[{".repeat(5000);
    let texts = [
        (deep(127, ""), true),
        (deep(128, ""), false),
        (deep(100_000, ""), false),
        (objects(127), true),
        (objects(128), false),
        // Strings, and arrays that are closed, do not add to the depth.
        (deep(127, &format!(r#""{brackets}""#)), true),
        (deep(126, &format!(r#""\"{brackets}\\",[]"#)), true),
        (deep(127, &format!(r#""{brackets}\\",[]"#)), false),
        (format!("[{}0]", "[],".repeat(5000)), true),
        // Deep and never closed.
        ("[".repeat(100_000), false),
    ];
    let (texts, json): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
    for ((text, json), arrived) in texts.iter().zip(json).zip(arrivals(&texts)) {
        assert_eq!(arrived.as_json().is_some(), json, "{text}");
        assert_eq!(arrived.to_string(), *text);
    }
}

#[test]
fn non_finite_numbers_decode_as_none() {
    let texts = ["[1.5, NaN, -Infinity, 1e400]".to_owned()];
    let scan = &arrivals(&texts)[0];
    let ranges = scan.decode::<Vec<Option<f64>>>().unwrap();
    assert_eq!(ranges, [Some(1.5), None, None, None]);
    assert!(scan.decode::<Vec<f64>>().is_err());
}

#[test]
fn an_error_of_decode_shows_the_beginning_of_the_text() {
    fn error<T: serde::de::DeserializeOwned>(message: impl Into<Message>) -> String {
        let Err(error) = message.into().decode::<T>() else {
            panic!("it was decoded");
        };
        assert!(matches!(error, Error::Json { .. }), "{error:?}");
        error.to_string()
    }
    let text = error::<Value>("{oops\n");
    assert_eq!(
        text,
        r#"JSON: key must be a string at line 1 column 2 in "{oops\n""#
    );
    let text = error::<u8>(json!("a\nb"));
    let reason = r#"invalid type: string "a\nb", expected u8 at line 1 column 6"#;
    assert_eq!(text, format!(r#"JSON: {reason} in "\"a\\nb\"""#));
    assert!(error::<Value>(b"\xff\x1b").ends_with("column 1 in \"\u{fffd}\\u{1b}\""));
    // Both the reason and the text are shortened. The position is kept.
    let long = "x".repeat(10_000);
    for message in [
        Message::from(json!([long])),
        long.as_bytes().into(),
        long.into(),
    ] {
        let text = error::<Vec<u8>>(message);
        assert!(text.len() < 400 && text.ends_with("xxx\"..."), "{text}");
        assert!(text.contains(" at line 1 column "), "{text}");
    }
    // There is no text if a value cannot be made one.
    let error = Message::json(&std::collections::HashMap::from([((), 1)])).unwrap_err();
    assert_eq!(error.to_string(), "JSON: key must be a string");
}

#[test]
fn values_are_put_and_taken_as_types_of_the_program() {
    let (client, server) = pair();
    client.put_json(&vec![1, 2]).unwrap();
    client.put_json("text").unwrap();
    assert_eq!(server.get_as::<Vec<u8>>().unwrap(), [1, 2]);
    assert!(matches!(server.get_as::<u8>(), Err(Error::Json { .. })));
    // The message that does not fit was taken. The connection is not affected.
    client.put_json(&7).unwrap();
    assert_eq!(server.get_as::<u8>().unwrap(), 7);
    let no_json = std::collections::HashMap::from([((), 1)]);
    assert!(matches!(client.put_json(&no_json), Err(Error::Json { .. })));

    server.put_json(&Some(0.5)).unwrap();
    assert_eq!(client.get_as::<f64>().unwrap(), 0.5);
    server.close_with(4001, "done").unwrap();
    for error in [
        client.get_as::<f64>().unwrap_err(),
        client.put_json(&1).unwrap_err(),
    ] {
        assert!(error.to_string().contains("4001"), "{error}");
    }
    let error = server.put_json(&1).unwrap_err();
    assert!(matches!(error, Error::Closed(_)), "{error}");
}

#[test]
fn a_value_that_finds_no_space_is_an_error() {
    let (robot, _operator) = Options::new().send_queue(1000).paused(true).pair();
    let error = loop {
        if let Err(error) = robot.put_json(&[0u8; 32]) {
            break error;
        }
    };
    assert!(matches!(error, Error::Full), "{error}");
    assert!(robot.is_ready());
}

#[test]
fn a_number_is_decoded_with_all_its_digits() {
    let texts = [format!(
        r#"{{"big": [{}], "small": {}}}"#,
        u128::MAX,
        i128::MIN
    )];
    let arrived = &arrivals(&texts)[0];
    #[derive(serde::Deserialize)]
    struct Exact {
        big: Vec<u128>,
        small: i128,
    }
    let exact = arrived.decode::<Exact>().unwrap();
    assert_eq!((exact.big[0], exact.small), (u128::MAX, i128::MIN));
}

#[test]
fn a_relayed_message_is_sent_byte_for_byte_as_it_came() {
    let (first, relay) = plain_client();
    let (onward, last) = pair_with(&Options::new(), &Options::new().json(false));
    relay.subscribe_to(onward.clone());
    // Whether or not its value is used on the way.
    relay.subscribe_callback(|message| drop(message.as_json().cloned()));
    let spaced = "{ \"b\" : 1.0,\"a\":[ 1E5 , 100000000000000000000000.10 ] }\n";
    let texts = odd().into_iter().map(|(text, _)| text).chain([spaced]);
    for text in texts {
        first.put(text).unwrap();
        assert_eq!(last.get_timeout(DEADLINE).unwrap(), text);
    }
}

#[test]
fn a_message_without_room_is_returned_unchanged() {
    let (client, _server) = pair_with(&Options::new().send_queue(1), &Options::new());
    let mut deep = json!(0);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    client.close().unwrap();
    let back = client.put_nowait(deep.clone()).unwrap_err();
    assert!(!back.is_full());
    assert_eq!(back.into_inner(), deep);
}

type Typed = (
    (u128, i128),
    BTreeMap<i32, [Option<String>; 2]>,
    (char, [u64; 2]),
);

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Of all magnitudes, and as sensors send them.
        any::<u64>().prop_map(|bits| Value::from(f64::from_bits(bits))),
        (-1e4..1e4).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// As Python's json.dumps writes it, with everything that Python may send and others may not.
fn as_python_writes() -> impl Strategy<Value = String> {
    let spaces = || "[ \t\r\n]{0,2}";
    let string = || {
        prop::collection::vec(
            prop_oneof![
                "[ -!#-\\[\\]-~]{0,3}",
                any::<u16>().prop_map(|unit| format!("\\u{unit:04x}")),
                (0xd7ff_u16..0xe001).prop_map(|unit| format!("\\u{unit:04X}")),
                "\\\\[\"\\\\/bfnrt]",
                "\\PC{0,2}".prop_map(|text| text.replace(['"', '\\'], "")),
            ],
            0..5,
        )
        .prop_map(|parts| format!("\"{}\"", parts.concat()))
    };
    let leaf = prop_oneof![
        Just("NaN".to_owned()),
        Just("Infinity".to_owned()),
        Just("-Infinity".to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,12})?",
        string(),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        let item = (spaces(), inner.clone(), spaces());
        let item = item.prop_map(|(a, value, b)| [a, value, b].concat());
        let pair = (string(), item.clone()).prop_map(|(name, value)| format!("{name}:{value}"));
        prop_oneof![
            prop::collection::vec(item, 0..8).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(pair, 0..8).prop_map(|items| format!("{{{}}}", items.join(","))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_value_arrives_as_it_was_put(values in prop::collection::vec(values(), 1..20)) {
        let (client, server) = Websocket::pair();
        for value in values {
            client.put(value.clone()).unwrap();
            let arrived = server.get_timeout(DEADLINE).unwrap();
            prop_assert_eq!(arrived.decode::<Value>().unwrap(), value.clone());
            prop_assert_eq!(arrived.as_json(), Some(&value));
        }
    }

    #[test]
    fn any_typed_value_is_decoded_as_it_was_made(
        value in (
            any::<(u128, i128)>(),
            prop::collection::btree_map(any::<i32>(), any::<[Option<String>; 2]>(), 0..4),
            any::<(char, [u64; 2])>(),
        ),
        floats in any::<(f32, f64)>(),
    ) {
        let message = Message::json(&(&value, floats)).unwrap();
        prop_assert_eq!(message.decode::<(Typed, (f32, f64))>().unwrap(), (value, floats));
    }

    #[test]
    fn any_text_that_python_reads_arrives_as_json(
        texts in prop::collection::vec(as_python_writes(), 1..40),
    ) {
        for (text, arrived) in texts.iter().zip(arrivals(&texts)) {
            prop_assert!(arrived.as_json().is_some(), "{}", text);
            prop_assert_eq!(arrived.to_string(), text.as_str());
            prop_assert_eq!(&arrived.decode::<Value>().unwrap(), arrived.as_json().unwrap());
        }
    }
}
