//! Makes a client's connection, on the reader thread: from its URL to its handshake.

use std::sync::Arc;
use std::time::Instant;

use http::Request as HttpRequest;
use http::header::{self, HeaderName, HeaderValue};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::Role as WireRole;
use url::Host;

use super::life::Opened;
use super::open::{facts, given_up};
use super::options::{deadline_after, is_secret};
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::limits::of_descriptors;
use crate::net::basic_auth::authorization;
use crate::net::connect::{Cancel, addresses, connect, connect_unix};
use crate::net::handshake::{self, Failure};
use crate::net::proxy::Proxy;
use crate::net::socket::Socket;
use crate::net::target::{Place, Target};
use crate::net::transport::Transport;
use crate::pubsub::guarded;

/// All that a client's handshake says.
#[derive(Clone)]
pub(crate) struct Call {
    target: Target,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers that have another value each time.
    renewed: Vec<(HeaderName, HeaderSource)>,
    proxying: Proxying,
}

/// Where a header's value comes from.
pub(crate) type HeaderSource = Arc<dyn Fn() -> Result<String, SourceError> + Send + Sync>;
pub(crate) type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Which way the connection takes.
#[derive(Clone)]
pub(crate) enum Proxying {
    Direct,
    Through(Proxy),
    /// What the environment's variables say when the connection is made.
    Environment,
}

impl Proxying {
    fn proxy(&self, encrypted: bool, host: &Host<String>, port: u16) -> Result<Option<Proxy>> {
        match self {
            Proxying::Direct => Ok(None),
            Proxying::Through(proxy) => Ok(Some(proxy.clone())),
            Proxying::Environment => {
                Proxy::from_env(encrypted, host, port, |name| std::env::var(name).ok())
            }
        }
    }
}

impl Call {
    /// A call that can be made.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when both the URL and a header say who is calling;
    /// [`Error::InvalidUrl`] for one that HTTP has no words for.
    pub(crate) fn new(
        target: Target,
        headers: Vec<(HeaderName, HeaderValue)>,
        renewed: Vec<(HeaderName, HeaderSource)>,
        proxying: Proxying,
    ) -> Result<Self> {
        let names = headers.iter().map(|(name, _)| name);
        let mut names = names.chain(renewed.iter().map(|(name, _)| name));
        let authorized = names.any(|name| name == header::AUTHORIZATION);
        if authorized && target.credentials.is_some() {
            return Err(Error::InvalidOption {
                setting: "basic_auth",
                reason: "there is a user in the URL, and a setting or a header says who, too"
                    .into(),
            });
        }
        let call = Call {
            target,
            headers,
            renewed,
            proxying,
        };
        call.request()?;
        Ok(call)
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.target.encrypted
    }

    /// The URL for the log and for errors.
    pub(crate) fn name(&self) -> &str {
        &self.target.name
    }

    pub(crate) fn request(&self) -> Result<HttpRequest<()>> {
        let url = self.target.url.as_str();
        let request = url.into_client_request();
        let mut request = request.map_err(|error| Error::InvalidUrl {
            url: self.target.name.clone(),
            reason: error.to_string(),
        })?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if let Some(value) = self.target.credentials.as_ref().and_then(authorization) {
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// The request, with headers that are renewed for it.
    fn renewed_request(&self) -> Result<HttpRequest<()>> {
        let mut request = self.request()?;
        for (name, source) in &self.renewed {
            let failed = |error: SourceError| Error::Header {
                name: name.to_string(),
                error: error.into(),
            };
            let mut value = Err("the function panicked".into());
            guarded(|| value = source());
            let value = value.map_err(failed)?;
            let value = HeaderValue::from_str(&value);
            let nonsense =
                "what the function returned is not allowed in HTTP (a line break at its end?)";
            let mut value = value.map_err(|_| failed(nonsense.into()))?;
            value.set_sensitive(is_secret(name));
            request.headers_mut().insert(name.clone(), value);
        }
        Ok(request)
    }

    /// The call that a refusal leads to, if it is a redirect. What is secret stays with the host
    /// that it is for.
    fn redirected(&self, response: &http::Response<bytes::Bytes>) -> Option<Result<Call>> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
        let mut target = match self.target.redirect(location) {
            Ok(target) => target,
            Err(error) => return Some(Err(error)),
        };
        let mut headers = self.headers.clone();
        let mut renewed = self.renewed.clone();
        if self.target.may_share_secrets_with(&target) {
            let credentials = target.credentials.take();
            target.credentials = credentials.or_else(|| self.target.credentials.clone());
        } else {
            headers.retain(|(name, _)| !is_secret(name));
            renewed.retain(|(name, _)| !is_secret(name));
        }
        Some(Ok(Call {
            target,
            headers,
            renewed,
            proxying: self.proxying.clone(),
        }))
    }
}

/// Connects, and follows redirects as far as that is allowed.
pub(crate) fn as_client(shared: &Shared, mut call: Call) -> Result<Opened> {
    let mut request = call.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    let mut redirects = shared.options.max_redirects;
    loop {
        let error = match dial(shared, &call, request, deadline) {
            Ok(opened) => return Ok(opened),
            Err(failure) => in_time(shared, failure),
        };
        let next = match &error {
            Error::Refused { response } if redirects > 0 => call.redirected(response),
            _ => None,
        };
        match next {
            None => return Err(error),
            Some(next) => call = next?,
        }
        log::debug!("{}: redirected to {}", shared.name, call.name());
        request = call.renewed_request()?;
        redirects -= 1;
    }
}

/// Over a connection that is there already.
pub(crate) fn over(shared: &Shared, transport: Box<dyn Transport>, call: &Call) -> Result<Opened> {
    let request = call.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    ask(shared, transport, request, deadline).map_err(|failure| in_time(shared, failure))
}

fn in_time(shared: &Shared, failure: Failure) -> Error {
    match failure {
        Failure::Failed(error) => error,
        Failure::TimedOut(stage) => Error::ConnectTimeout {
            target: shared.name.clone(),
            after: shared.options.connect_timeout,
            stage,
        },
    }
}

fn dial(
    shared: &Shared,
    call: &Call,
    request: HttpRequest<()>,
    deadline: Instant,
) -> Result<Opened, Failure> {
    let cancel = Cancel::new().map_err(|error| Error::Connect {
        address: shared.name.clone(),
        error: Arc::new(error),
    })?;
    if !shared.lifecycle.install(cancel.clone()) {
        return Err(given_up().into());
    }
    let socket = reach(shared, call, deadline, &cancel)?;
    if !shared.lifecycle.install(Arc::new(socket.clone())) {
        return Err(given_up().into());
    }
    let transport = encrypt(shared, &call.target, socket, deadline)?;
    ask(shared, transport, request, deadline)
}

/// A connection to the host itself, whatever is in between.
fn reach(
    shared: &Shared,
    call: &Call,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let (host, port) = match &call.target.place {
        Place::Unix(path) => return Ok(connect_unix(path, deadline, cancel)?.into()),
        Place::Host(host, port) => (host, *port),
    };
    match call.proxying.proxy(call.target.encrypted, host, port)? {
        None => Ok(connect(host, port, deadline, cancel)?.into()),
        Some(proxy) => through(shared, &proxy, host, port, deadline, cancel),
    }
}

fn through(
    shared: &Shared,
    proxy: &Proxy,
    host: &Host<String>,
    port: u16,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let stream =
        connect(proxy.host(), proxy.port(), deadline, cancel).map_err(|failure| match failure {
            Failure::Failed(error @ (Error::Connect { .. } | Error::Resolve { .. })) => {
                proxy.failed(error.to_string(), true)
            }
            other => other,
        })?;
    let resolved = match host {
        Host::Domain(_) if !proxy.resolves_names() => {
            let addresses = addresses(host, port, deadline, cancel)?;
            addresses.first().map(|address| match address.ip() {
                std::net::IpAddr::V4(ip) => Host::Ipv4(ip),
                std::net::IpAddr::V6(ip) => Host::Ipv6(ip),
            })
        }
        _ => None,
    };
    stream.set_nonblocking(false).map_err(Error::lost)?;
    // So that closing ends the talk with the proxy.
    let clone = stream.try_clone().map_err(of_descriptors);
    let clone = clone.map_err(Error::lost)?;
    if !shared.lifecycle.install(Arc::new(Socket::from(clone))) {
        return Err(given_up().into());
    }
    proxy.tunnel(&stream, resolved.as_ref().unwrap_or(host), port, deadline)?;
    Ok(stream.into())
}

#[cfg(feature = "native-tls")]
fn encrypt(
    shared: &Shared,
    target: &Target,
    socket: Socket,
    deadline: Instant,
) -> Result<Box<dyn Transport>, Failure> {
    if !target.encrypted {
        return Ok(Box::new(socket));
    }
    let host = match &target.place {
        Place::Host(Host::Domain(name), _) => name.clone(),
        Place::Host(Host::Ipv4(ip), _) => ip.to_string(),
        Place::Host(Host::Ipv6(ip), _) => ip.to_string(),
        Place::Unix(_) => "localhost".to_owned(),
    };
    let connector = shared.options.trust.connector(&host)?;
    let tls = crate::net::tls::connect(&connector, &host, socket, deadline)?;
    Ok(Box::new(tls))
}

#[cfg(not(feature = "native-tls"))]
fn encrypt(
    _: &Shared,
    _: &Target,
    socket: Socket,
    _: Instant,
) -> Result<Box<dyn Transport>, Failure> {
    // A target that is encrypted does not come this far: `Target::parse` refuses it.
    Ok(Box::new(socket))
}

/// The WebSocket's own handshake.
fn ask(
    shared: &Shared,
    mut transport: Box<dyn Transport>,
    request: HttpRequest<()>,
    deadline: Instant,
) -> Result<Opened, Failure> {
    transport
        .set_nodelay(shared.options.nodelay)
        .map_err(Error::lost)?;
    let addresses = (transport.peer_addr(), transport.local_addr());
    let mut halves = transport.split().map_err(Error::lost)?;
    if !shared.lifecycle.install(halves.cut.clone()) {
        return Err(given_up().into());
    }
    let (response, rest) = handshake::ask(&mut halves, request.clone(), deadline)?;
    Ok(Opened {
        facts: facts(addresses, request, response),
        halves,
        rest,
        role: WireRole::Client,
    })
}
