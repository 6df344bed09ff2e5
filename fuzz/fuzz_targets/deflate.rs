#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rtcbot_websocket::fuzzing::deflate(input));
