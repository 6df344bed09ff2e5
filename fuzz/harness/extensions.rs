//! What `Sec-WebSocket-Extensions` means by RFC 6455, section 9.1, and RFC 7692, section 7.1, in
//! the simplest code possible.

use crate::fuzzing::Role;

/// An extension, and its parameters with their values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extension {
    name: String,
    parameters: Vec<(String, Option<String>)>,
}

/// Returns all extensions in these headers, or `None` if one is malformed.
pub(super) fn parse(headers: &[Vec<u8>]) -> Option<Vec<Extension>> {
    let mut extensions = Vec::new();
    for header in headers {
        for element in split(header, b',') {
            if !trim(element).is_empty() {
                extensions.push(extension(element)?);
            }
        }
    }
    Some(extensions)
}

fn extension(element: &[u8]) -> Option<Extension> {
    let mut parts = split(element, b';').into_iter();
    let name = token(parts.next()?)?;
    let parameters = parts.map(|part| match &split(part, b'=')[..] {
        [name] => Some((token(name)?, None)),
        [name, value] => Some((token(name)?, Some(token(&unquoted(trim(value))?)?))),
        _ => None,
    });
    let parameters = parameters.collect::<Option<_>>()?;
    Some(Extension { name, parameters })
}

/// Splits at separators that are not within quotes.
fn split(bytes: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if *byte == separator && !is_quoted => {
                parts.push(&bytes[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&bytes[begin..]);
    parts
}

/// Returns the value that is in quotes, or as it is.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let [b'"', inside @ ..] = value else {
        return Some(value.to_vec());
    };
    let mut unquoted = Vec::new();
    let mut rest = inside;
    loop {
        rest = match rest {
            [b'"'] => return Some(unquoted),
            [b'"', ..] | [b'\\'] | [] => return None,
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                unquoted.push(*byte);
                // A blank is no part of a token, and must not be trimmed away.
                if byte.is_ascii_whitespace() {
                    return None;
                }
                rest
            }
        };
    }
}

fn trim(bytes: &[u8]) -> &[u8] {
    match bytes {
        [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] => trim(rest),
        _ => bytes,
    }
}

fn token(bytes: &[u8]) -> Option<String> {
    let token = String::from_utf8(trim(bytes).to_vec()).ok()?;
    let is_token = |c: char| c.is_ascii_graphic() && !"\"(),/:;<=>?@[\\]{}".contains(c);
    (!token.is_empty() && token.chars().all(is_token)).then_some(token)
}

impl Extension {
    fn get(&self, name: &str) -> Option<&Option<String>> {
        let mut found = self.parameters.iter().filter(|(it, _)| it == name);
        found.next().map(|(_, value)| value)
    }

    fn bits(&self, name: &str) -> Option<u8> {
        self.get(name)?.as_ref()?.parse().ok()
    }

    pub(super) fn server_bits(&self) -> Option<u8> {
        self.bits("server_max_window_bits")
    }

    pub(super) fn client_bits(&self) -> Option<u8> {
        self.bits("client_max_window_bits")
    }

    /// Whether messages of the side with this role may refer to earlier ones, and how far back.
    pub(super) fn direction(&self, role: Role) -> (bool, u8) {
        let sender = match role {
            Role::Client => "client",
            Role::Server => "server",
        };
        let takeover = self.get(&format!("{sender}_no_context_takeover")).is_none();
        let bits = self.bits(&format!("{sender}_max_window_bits"));
        (takeover, bits.unwrap_or(15))
    }

    /// Section 7.1: each parameter occurs once at most, and has the value that it must have.
    fn is_valid(&self, is_offer: bool) -> bool {
        let names = self.parameters.iter().map(|(name, _)| name);
        let is_repeated = |name| names.clone().filter(|other| *other == name).count() > 1;
        let is_valid = |(name, value): &(String, Option<String>)| match (&name[..], value) {
            ("client_no_context_takeover" | "server_no_context_takeover", None) => true,
            ("client_max_window_bits", None) => is_offer,
            ("client_max_window_bits" | "server_max_window_bits", Some(value)) => {
                (8..=15).any(|bits: u8| bits.to_string() == *value)
            }
            _ => false,
        };
        self.name == "permessage-deflate"
            && self.parameters.iter().all(is_valid)
            && !names.clone().any(is_repeated)
    }

    pub(super) fn is_valid_offer(&self) -> bool {
        self.is_valid(true)
    }

    /// Whether a server may answer this to the offer, and a client must accept it.
    pub(super) fn is_answer_to(&self, offer: &Extension) -> bool {
        const NO_TAKEOVER: &str = "server_no_context_takeover";
        // Section 7.1.1.1.
        let confirms_takeover = offer.get(NO_TAKEOVER).is_none() || self.get(NO_TAKEOVER).is_some();
        // Section 7.1.2.1.
        let confirms_window = match (offer.server_bits(), self.server_bits()) {
            (Some(most), Some(bits)) => bits <= most,
            (Some(_), None) => false,
            (None, _) => true,
        };
        // Section 7.1.2.2.
        let limit_was_offered = self.get("client_max_window_bits").is_none()
            || offer.get("client_max_window_bits").is_some();
        self.is_valid(false) && confirms_takeover && confirms_window && limit_was_offered
    }
}
