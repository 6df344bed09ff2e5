//! What a client and a server agree on in the opening handshake (RFC 7692, sections 5 and 7.1).

use tungstenite::protocol::Role;

use super::deflater::Deflater;
use super::direction::Direction;
use super::extension::{Extension, parse};
use super::inflate_reader::InflateReader;
use super::settings::Deflate;

const NAME: &str = "permessage-deflate";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";

/// The window of a side that has not agreed on another one.
const MAX_WINDOW_BITS: u8 = 15;
/// The shortest window that zlib compresses with.
const MIN_WINDOW_BITS: u8 = 9;

/// Why a handshake cannot be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) String);

/// The compression that both sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    level: u8,
    threshold: usize,
    client: Direction,
    server: Direction,
}

impl Agreed {
    /// Returns the reader for the peer's messages. `role` is this side's role.
    pub(crate) fn reader(&self, role: Role) -> InflateReader {
        InflateReader::new(match role {
            Role::Client => self.server,
            Role::Server => self.client,
        })
    }

    /// Returns the compressor of this side's messages. Returns `None` if they must not be
    /// compressed because the window is too short for zlib.
    pub(crate) fn deflater(&self, role: Role) -> Option<Deflater> {
        let direction = match role {
            Role::Client => self.client,
            Role::Server => self.server,
        };
        let possible = direction.window_bits >= MIN_WINDOW_BITS;
        possible.then(|| Deflater::new(self.level, self.threshold, direction))
    }
}

impl Deflate {
    /// Returns a client's offer, as the value of `Sec-WebSocket-Extensions`.
    pub(crate) fn offer(&self) -> String {
        Parameters {
            client_no_context_takeover: !self.client.takeover,
            server_no_context_takeover: !self.server.takeover,
            // Without a value, it tells the server that it may set one.
            client_max_window_bits: Some(limited(self.client.window_bits)),
            server_max_window_bits: limited(self.server.window_bits),
        }
        .to_header()
    }

    /// Chooses from a client's offers, in its order of preference. Returns the agreement and the
    /// answer. Returns `None` if no offer can be accepted.
    ///
    /// # Errors
    ///
    /// A header is malformed. RFC 6455, section 9.1, requires to fail then.
    pub(crate) fn choose<'a>(
        &self,
        headers: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<(Agreed, String)>, Refused> {
        for extension in extensions(headers)? {
            if extension.name == NAME {
                if let Ok(offer) = Parameters::of(&extension) {
                    if let Some(answer) = self.answer_to(&offer) {
                        return Ok(Some((self.agreed(&answer), answer.to_header())));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns the answer to an offer, or `None` if it must be declined.
    fn answer_to(&self, offer: &Parameters) -> Option<Parameters> {
        let asked = offer.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS);
        let server = self.server.window_bits.min(asked);
        if server < MIN_WINDOW_BITS {
            return None;
        }
        // Section 7.1.2.2: only a client that offers it understands a limit.
        let client = offer.client_max_window_bits.map(|asked| {
            let asked = asked.unwrap_or(MAX_WINDOW_BITS);
            self.client.window_bits.min(asked)
        });
        Some(Parameters {
            client_no_context_takeover: !self.client.takeover || offer.client_no_context_takeover,
            server_no_context_takeover: !self.server.takeover || offer.server_no_context_takeover,
            client_max_window_bits: client.and_then(limited).map(Some),
            server_max_window_bits: match offer.server_max_window_bits {
                Some(_) => Some(server),
                None => limited(server),
            },
        })
    }

    /// Checks a server's answer to the [offer](Self::offer). Returns `None` if the server does not
    /// compress.
    ///
    /// # Errors
    ///
    /// The server has chosen what was not offered, or what makes no sense.
    pub(crate) fn check_answer<'a>(
        &self,
        headers: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<Agreed>, Refused> {
        let chosen = extensions(headers)?;
        let [extension] = &chosen[..] else {
            return match chosen.is_empty() {
                true => Ok(None),
                false => refused("chooses more than one extension"),
            };
        };
        if extension.name != NAME {
            return refused("chooses an extension that was not offered");
        }
        let answer = Parameters::of(extension)?;
        if !self.server.takeover && !answer.server_no_context_takeover {
            return refused("does not confirm server_no_context_takeover");
        }
        if answer.client_max_window_bits == Some(None) {
            return refused("has client_max_window_bits without a value");
        }
        let server = answer.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS);
        if server > self.server.window_bits {
            return refused("does not confirm server_max_window_bits");
        }
        Ok(Some(self.kept_by_client(self.agreed(&answer))))
    }

    /// Returns the agreement that an answer completes.
    fn agreed(&self, answer: &Parameters) -> Agreed {
        let client = answer.client_max_window_bits.flatten();
        Agreed {
            level: self.level,
            threshold: self.threshold,
            client: Direction {
                takeover: !answer.client_no_context_takeover,
                window_bits: client.unwrap_or(MAX_WINDOW_BITS),
            },
            server: Direction {
                takeover: !answer.server_no_context_takeover,
                window_bits: answer.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS),
            },
        }
    }

    /// Returns the agreement as this client keeps it: a client may always compress less than the
    /// server allows.
    fn kept_by_client(&self, mut agreed: Agreed) -> Agreed {
        agreed.client.takeover &= self.client.takeover;
        agreed.client.window_bits = agreed.client.window_bits.min(self.client.window_bits);
        agreed
    }
}

/// Returns the limit, unless it limits nothing.
fn limited(window_bits: u8) -> Option<u8> {
    (window_bits < MAX_WINDOW_BITS).then_some(window_bits)
}

fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

/// Returns the extensions in all headers of this name, which form one list.
fn extensions<'a>(
    headers: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Extension<'a>>, Refused> {
    let parsed: Option<Vec<_>> = headers.into_iter().map(parse).collect();
    match parsed {
        Some(lists) => Ok(lists.into_iter().flatten().collect()),
        None => refused("has a malformed Sec-WebSocket-Extensions header"),
    }
}

/// The parameters of an offer or an answer (section 7.1).
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    client_no_context_takeover: bool,
    server_no_context_takeover: bool,
    /// In an offer, it may have no value.
    client_max_window_bits: Option<Option<u8>>,
    server_max_window_bits: Option<u8>,
}

impl Parameters {
    /// # Errors
    ///
    /// A parameter is unknown, has an invalid value, or occurs twice (sections 5.1 and 5.2).
    fn of(extension: &Extension<'_>) -> Result<Parameters, Refused> {
        let mut found = Parameters::default();
        for (name, value) in &extension.parameters {
            let is_repeated = match (*name, value) {
                (CLIENT_NO_CONTEXT_TAKEOVER, None) => {
                    std::mem::replace(&mut found.client_no_context_takeover, true)
                }
                (SERVER_NO_CONTEXT_TAKEOVER, None) => {
                    std::mem::replace(&mut found.server_no_context_takeover, true)
                }
                (CLIENT_MAX_WINDOW_BITS, value) => {
                    let bits = value.as_deref().map(window_bits).transpose()?;
                    found.client_max_window_bits.replace(bits).is_some()
                }
                (SERVER_MAX_WINDOW_BITS, Some(value)) => {
                    let bits = window_bits(value)?;
                    found.server_max_window_bits.replace(bits).is_some()
                }
                _ => return refused(format!("has an invalid parameter {name} of {NAME}")),
            };
            if is_repeated {
                return refused(format!("has the parameter {name} of {NAME} twice"));
            }
        }
        Ok(found)
    }

    fn to_header(&self) -> String {
        let mut header = NAME.to_owned();
        let mut add = |parameter: String| {
            header.push_str("; ");
            header.push_str(&parameter);
        };
        if self.server_no_context_takeover {
            add(SERVER_NO_CONTEXT_TAKEOVER.to_owned());
        }
        if self.client_no_context_takeover {
            add(CLIENT_NO_CONTEXT_TAKEOVER.to_owned());
        }
        if let Some(bits) = self.server_max_window_bits {
            add(format!("{SERVER_MAX_WINDOW_BITS}={bits}"));
        }
        match self.client_max_window_bits {
            Some(Some(bits)) => add(format!("{CLIENT_MAX_WINDOW_BITS}={bits}")),
            Some(None) => add(CLIENT_MAX_WINDOW_BITS.to_owned()),
            None => {}
        }
        header
    }
}

/// Parses a number from 8 to 15, without a leading zero.
fn window_bits(value: &str) -> Result<u8, Refused> {
    match value {
        "8" => Ok(8),
        "9" => Ok(9),
        "10" => Ok(10),
        "11" => Ok(11),
        "12" => Ok(12),
        "13" => Ok(13),
        "14" => Ok(14),
        "15" => Ok(15),
        _ => refused(format!("has {value:?} for the bits of a window")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(takeover: bool, window_bits: u8) -> Direction {
        Direction {
            takeover,
            window_bits,
        }
    }

    const ALL: Direction = Direction {
        takeover: true,
        window_bits: 15,
    };

    fn answer(server: &Deflate, offers: &[&str]) -> Option<(Agreed, String)> {
        let offers = offers.iter().map(|offer| offer.as_bytes());
        server.choose(offers).unwrap()
    }

    fn answer_text(server: &Deflate, offer: &str) -> Option<String> {
        answer(server, &[offer]).map(|(_, header)| header)
    }

    fn checked(client: &Deflate, answer: &str) -> Result<Option<Agreed>, Refused> {
        client.check_answer([answer.as_bytes()])
    }

    #[test]
    fn the_offer_has_what_differs_from_the_defaults() {
        let new = Deflate::new;
        assert_eq!(new().offer(), "permessage-deflate; client_max_window_bits");
        assert_eq!(
            new()
                .client_no_context_takeover(true)
                .server_no_context_takeover(true)
                .client_max_window_bits(9)
                .server_max_window_bits(10)
                .offer(),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=10; client_max_window_bits=9"
        );
    }

    #[test]
    fn every_offer_of_a_client_is_confirmed_by_every_server() {
        let settings = |on: u8, bits: u8| {
            Deflate::new()
                .client_no_context_takeover(on & 1 != 0)
                .server_no_context_takeover(on & 2 != 0)
                .client_max_window_bits(bits)
                .server_max_window_bits(24 - bits)
        };
        for (on, bits) in (0..4).flat_map(|on| (9..=15).map(move |bits| (on, bits))) {
            let client = settings(on, bits);
            for (on, bits) in (0..4).flat_map(|on| (9..=15).map(move |bits| (on, bits))) {
                let server = settings(on, bits);
                let (agreed, header) = answer(&server, &[&client.offer()]).unwrap();
                let seen = checked(&client, &header).unwrap().unwrap();
                assert_eq!((seen.client, seen.server), (agreed.client, agreed.server));
                for side in [&client, &server] {
                    assert!(seen.client.window_bits <= side.client.window_bits);
                    assert!(seen.server.window_bits <= side.server.window_bits);
                    assert!(side.client.takeover || !seen.client.takeover);
                    assert!(side.server.takeover || !seen.server.takeover);
                }
            }
        }
    }

    #[test]
    fn the_first_offer_that_can_be_accepted_is_chosen() {
        let server = Deflate::new();
        for offers in [
            &["x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=\"10\""][..],
            &[
                "permessage-deflate; server_max_window_bits=8, permessage-deflate; \
               server_max_window_bits=10",
            ],
            &[
                "permessage-deflate; unknown, permessage-deflate; client_max_window_bits=7",
                "permessage-deflate; server_max_window_bits=10",
            ],
            &["permessage-deflate; server_max_window_bits, \
               permessage-deflate; server_max_window_bits=10; client_max_window_bits=15, \
               permessage-deflate"],
        ] {
            let (agreed, header) = answer(&server, offers).unwrap();
            assert_eq!(header, "permessage-deflate; server_max_window_bits=10");
            assert_eq!((agreed.client, agreed.server), (ALL, direction(true, 10)));
        }
    }

    #[test]
    fn a_bad_offer_is_declined() {
        for offer in [
            "",
            "permessage-deflated",
            "Permessage-Deflate",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=300",
            "permessage-deflate; mem_level=9",
        ] {
            assert_eq!(answer_text(&Deflate::new(), offer), None, "{offer}");
        }
        let malformed: &[u8] = b"permessage-deflate;";
        assert!(Deflate::new().choose([malformed]).is_err());
    }

    #[test]
    fn a_client_that_does_not_offer_a_limit_is_not_limited() {
        let server = Deflate::new().client_max_window_bits(9);
        let answer = |offer| answer_text(&server, offer).unwrap();
        assert_eq!(answer("permessage-deflate"), "permessage-deflate");
        for offer in [
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=12",
        ] {
            assert_eq!(
                answer(offer),
                "permessage-deflate; client_max_window_bits=9"
            );
        }
        assert_eq!(
            answer("permessage-deflate; client_max_window_bits=8"),
            "permessage-deflate; client_max_window_bits=8"
        );
    }

    #[test]
    fn a_bad_answer_fails_the_handshake() {
        let client = Deflate::new()
            .server_no_context_takeover(true)
            .server_max_window_bits(10);
        let good = "permessage-deflate; server_no_context_takeover; server_max_window_bits=9";
        assert!(checked(&client, good).unwrap().is_some());
        assert_eq!(checked(&client, ""), Ok(None));
        for end in [
            "; x",
            "; client_max_window_bits",
            "; server_max_window_bits=9",
            ", a",
            ";",
        ] {
            assert!(checked(&client, &format!("{good}{end}")).is_err(), "{end}");
        }
        for bad in [
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=\"\"",
            "x-webkit-deflate-frame",
        ] {
            assert!(checked(&client, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_does_not_compress_with_a_window_that_zlib_does_not_have() {
        let answer = "permessage-deflate; client_max_window_bits=8; server_max_window_bits=8";
        let agreed = checked(&Deflate::new(), answer).unwrap().unwrap();
        assert!(agreed.deflater(Role::Client).is_none());
        let _reads = agreed.reader(Role::Client);
    }

    #[test]
    fn a_client_keeps_its_own_limits_whatever_the_server_answers() {
        let client = Deflate::new()
            .client_no_context_takeover(true)
            .client_max_window_bits(10);
        let agreed = checked(&client, "permessage-deflate").unwrap().unwrap();
        assert_eq!(agreed.client, direction(false, 10));
    }
}
