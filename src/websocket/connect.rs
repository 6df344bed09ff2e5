//! Opens a client's connection, on the reader thread: from its URL to its handshake.

use std::sync::Arc;
use std::time::Instant;

use http::Request as HttpRequest;
use tungstenite::protocol::Role as WireRole;
use url::Host;

use super::opened::{Opened, given_up, info};
use super::shared::Shared;
use crate::deadline::deadline_after;
use crate::error::{Error, Result};
use crate::net::connect_request::ConnectRequest;
use crate::net::dial::{Cancel, addresses, connect, connect_unix};
use crate::net::handshake::Failure;
use crate::net::handshake::client;
use crate::net::host::Endpoint;
use crate::net::proxy::Proxy;
use crate::net::socket::Socket;
use crate::net::target::{Place, Target};
use crate::net::transport::Transport;

/// Connects, and follows as many redirects as the settings allow.
pub(crate) fn as_client(shared: &Shared, mut call: ConnectRequest) -> Result<Opened> {
    let mut request = call.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    let mut redirects = shared.options.max_redirects;
    loop {
        let error = match dial(shared, &call, request, redirects > 0, deadline) {
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
        crate::logging::debug!("{}: redirected to {}", shared.name, call.target.name);
        request = call.renewed_request()?;
        redirects -= 1;
    }
}

/// Opens a connection over a transport that exists already.
pub(crate) fn over(
    shared: &Shared,
    transport: Box<dyn Transport>,
    call: &ConnectRequest,
) -> Result<Opened> {
    let request = call.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    ask(shared, transport, request, false, deadline).map_err(|failure| in_time(shared, failure))
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
    call: &ConnectRequest,
    request: HttpRequest<()>,
    follows_redirects: bool,
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
    ask(shared, transport, request, follows_redirects, deadline)
}

/// Connects to the host, through a proxy if there is one.
fn reach(
    shared: &Shared,
    call: &ConnectRequest,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let endpoint = match &call.target.place {
        Place::Unix(path) => return Ok(connect_unix(path, deadline, cancel)?.into()),
        Place::Host(endpoint) => endpoint,
    };
    match call.proxy(endpoint)? {
        None => Ok(connect(endpoint, deadline, cancel)?.into()),
        Some(proxy) => through(shared, &proxy, endpoint, deadline, cancel),
    }
}

fn through(
    shared: &Shared,
    proxy: &Proxy,
    endpoint: &Endpoint,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let Endpoint { host, zone, port } = endpoint;
    if let Some(zone) = zone {
        let reason = format!(
            "the network interface {zone:?} is this machine's, and a proxy cannot be told it: \
             connect to this address without a proxy"
        );
        return Err(proxy.failed(reason, false));
    }
    let stream = connect(proxy.endpoint(), deadline, cancel).map_err(|failure| match failure {
        Failure::Failed(error @ (Error::Connect { .. } | Error::Resolve { .. })) => {
            proxy.failed(error.to_string(), true)
        }
        other => other,
    })?;
    let resolved = match host {
        Host::Domain(_) if !proxy.resolves_names() => {
            let addresses = addresses(endpoint, deadline, cancel)?;
            addresses.first().map(|address| match address.ip() {
                std::net::IpAddr::V4(ip) => Host::Ipv4(ip),
                std::net::IpAddr::V6(ip) => Host::Ipv6(ip),
            })
        }
        _ => None,
    };
    let socket = Socket::from(stream);
    // Closing must end the exchange with the proxy.
    if !shared.lifecycle.install(Arc::new(socket.clone())) {
        return Err(given_up().into());
    }
    proxy.tunnel(&socket, resolved.as_ref().unwrap_or(host), *port, deadline)?;
    Ok(socket)
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
        Place::Unix(_) => "localhost".to_owned(),
        Place::Host(endpoint) => match &endpoint.host {
            // RFC 6066, section 3: a name is sent without the dot that may end it. Names in
            // certificates have none.
            Host::Domain(name) => name.strip_suffix('.').unwrap_or(name).to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        },
    };
    let connector = shared.options.tls.connector(&host)?;
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
    // The target is not encrypted: `Target::parse` refuses those that are.
    Ok(Box::new(socket))
}

/// Carries out the WebSocket's opening handshake.
fn ask(
    shared: &Shared,
    mut transport: Box<dyn Transport>,
    request: HttpRequest<()>,
    follows_redirects: bool,
    deadline: Instant,
) -> Result<Opened, Failure> {
    transport
        .set_nodelay(shared.options.nodelay)
        .map_err(Error::lost)?;
    let addresses = (transport.peer_addr(), transport.local_addr());
    let mut halves = transport.split().map_err(Error::lost)?;
    if !shared.lifecycle.install(halves.shutdown.clone()) {
        return Err(given_up().into());
    }
    let (response, rest) = client::ask(&mut halves, &request, follows_redirects, deadline)?;
    Ok(Opened {
        info: info(addresses, request, response),
        halves,
        rest,
        role: WireRole::Client,
    })
}
