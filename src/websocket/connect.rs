//! Opens a client's connection on the reader thread: from the URL to the handshake.

use std::sync::Arc;
use std::time::Instant;

use http::Request as HttpRequest;
use tungstenite::protocol::Role as WireRole;
use url::Host;

use super::opened::{Opened, info, install, split};
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
pub(crate) fn as_client(shared: &Shared, mut connect_request: ConnectRequest) -> Result<Opened> {
    let mut request = connect_request.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    let mut redirects = shared.options.max_redirects;
    loop {
        let attempt = dial(shared, &connect_request, request, redirects > 0, deadline);
        let error = match attempt {
            Ok(opened) => return Ok(opened),
            Err(failure) => error_of(shared, failure),
        };
        let next = match &error {
            Error::Refused { response } if redirects > 0 => connect_request.redirected(response),
            _ => None,
        };
        match next {
            None => return Err(error),
            Some(next) => connect_request = next?,
        }
        let name = &connect_request.target.name;
        crate::logging::debug!("{}: redirected to {name}", shared.name);
        request = connect_request.renewed_request()?;
        redirects -= 1;
    }
}

/// Opens a connection over an existing transport.
pub(crate) fn over(
    shared: &Shared,
    transport: Box<dyn Transport>,
    connect_request: &ConnectRequest,
) -> Result<Opened> {
    let request = connect_request.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    let opened = handshake(shared, transport, request, false, deadline);
    opened.map_err(|failure| error_of(shared, failure))
}

fn error_of(shared: &Shared, failure: Failure) -> Error {
    match failure {
        Failure::Failed(error) => error,
        Failure::TimedOut(stage) => Error::ConnectTimeout {
            target: shared.name.clone(),
            after: shared.options.connect_timeout,
            stage,
        },
    }
}

/// Makes one attempt to connect.
fn dial(
    shared: &Shared,
    connect_request: &ConnectRequest,
    request: HttpRequest<()>,
    follows_redirects: bool,
    deadline: Instant,
) -> Result<Opened, Failure> {
    let cancel = Cancel::new().map_err(|error| Error::Connect {
        address: shared.name.clone(),
        error: Arc::new(error),
    })?;
    install(shared, cancel.clone())?;
    let socket = connected_socket(shared, connect_request, deadline, &cancel)?;
    install(shared, Arc::new(socket.clone()))?;
    let transport = encrypt(shared, &connect_request.target, socket, deadline)?;
    handshake(shared, transport, request, follows_redirects, deadline)
}

/// Connects to the host, through a proxy if one is set.
fn connected_socket(
    shared: &Shared,
    connect_request: &ConnectRequest,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let endpoint = match &connect_request.target.place {
        Place::Unix(path) => return Ok(connect_unix(path, deadline, cancel)?.into()),
        Place::Host(endpoint) => endpoint,
    };
    match connect_request.proxy(endpoint)? {
        None => Ok(connect(endpoint, deadline, cancel)?.into()),
        Some(proxy) => connect_through(shared, &proxy, endpoint, deadline, cancel),
    }
}

/// Connects to the host through a proxy.
fn connect_through(
    shared: &Shared,
    proxy: &Proxy,
    endpoint: &Endpoint,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let Endpoint { host, zone, port } = endpoint;
    if let Some(zone) = zone {
        let reason = format!(
            "a proxy cannot use the network interface {zone:?} of this machine: \
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
    // A close must end the exchange with the proxy.
    install(shared, Arc::new(socket.clone()))?;
    proxy.tunnel(&socket, resolved.as_ref().unwrap_or(host), *port, deadline)?;
    Ok(socket)
}

/// Performs the TLS handshake if the target is encrypted.
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
            // A name is sent without a trailing dot (RFC 6066, section 3). Names in certificates
            // have none.
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
    // The target is not encrypted: `Target::parse` rejects targets that are.
    Ok(Box::new(socket))
}

/// Performs the opening handshake of the WebSocket.
fn handshake(
    shared: &Shared,
    transport: Box<dyn Transport>,
    request: HttpRequest<()>,
    follows_redirects: bool,
    deadline: Instant,
) -> Result<Opened, Failure> {
    let (mut halves, addresses) = split(shared, transport)?;
    let (response, rest) = client::ask(&mut halves, &request, follows_redirects, deadline)?;
    Ok(Opened {
        info: info(addresses, request, response),
        halves,
        rest,
        role: WireRole::Client,
    })
}
