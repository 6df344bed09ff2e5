#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rtcbot_websocket::fuzzing::frames_from_a_server(input));
