//! What a client asks for, and which way it goes there.

use std::sync::Arc;

use http::Request;
use http::header::{self, HeaderName, HeaderValue};

use super::basic_auth::authorization;
use super::handshake::client::{self, redirects_to};
use super::handshake::fields::mark_secrets;
use super::host::Endpoint;
use super::proxy::Proxy;
use super::target::Target;
use crate::error::{Error, Result};
use crate::panics::{Guarded, catch_panic};

/// Where a client connects to, and what it asks for there.
#[derive(Clone)]
pub(crate) struct ConnectRequest {
    pub(crate) target: Target,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers whose value is computed for each attempt to connect.
    renewed: Vec<(HeaderName, HeaderSource)>,
    proxy: ProxyChoice,
}

/// The program's function that computes a header's value.
pub(crate) type HeaderSource =
    Arc<Guarded<Box<dyn Fn() -> Result<String, SourceError> + Send + Sync>>>;
pub(crate) type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Which proxy a client connects through.
#[derive(Clone)]
pub(crate) enum ProxyChoice {
    Direct,
    Through(Proxy),
    /// The one that the environment's variables name when the connection is made.
    Environment,
}

impl ConnectRequest {
    /// Checks that the request can be written.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when both the URL and a header give credentials;
    /// [`Error::InvalidUrl`] for a URL that cannot be written in HTTP.
    pub(crate) fn new(
        target: Target,
        headers: Vec<(HeaderName, HeaderValue)>,
        renewed: Vec<(HeaderName, HeaderSource)>,
        proxy: ProxyChoice,
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
        let request = ConnectRequest {
            target,
            headers,
            renewed,
            proxy,
        };
        request.request()?;
        Ok(request)
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.target.encrypted
    }

    /// The URL, as the log and errors show it.
    pub(crate) fn name(&self) -> &str {
        &self.target.name
    }

    /// Returns the proxy to connect through, if there is one.
    pub(crate) fn proxy(&self, endpoint: &Endpoint) -> Result<Option<Proxy>> {
        match &self.proxy {
            ProxyChoice::Direct => Ok(None),
            ProxyChoice::Through(proxy) => Ok(Some(proxy.clone())),
            ProxyChoice::Environment => {
                let Endpoint { host, port, .. } = endpoint;
                let encrypted = self.target.encrypted;
                Proxy::from_env(encrypted, host, *port, |name| std::env::var(name).ok())
            }
        }
    }

    /// Returns the request, without the headers that are computed for each attempt.
    pub(crate) fn request(&self) -> Result<Request<()>> {
        let request = client::request(&self.target.url);
        let mut request = request.map_err(|reason| Error::InvalidUrl {
            url: self.target.name.clone(),
            reason,
        })?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if let Some(value) = self.target.credentials.as_ref().and_then(authorization) {
            headers.insert(header::AUTHORIZATION, value);
        }
        mark_secrets(headers);
        Ok(request)
    }

    /// Returns the request, with all headers. Calls the program's functions that compute them.
    pub(crate) fn renewed_request(&self) -> Result<Request<()>> {
        let mut request = self.request()?;
        for (name, source) in &self.renewed {
            let failed = |error: SourceError| Error::Header {
                name: name.to_string(),
                error: error.into(),
            };
            let value = catch_panic(|| source());
            let value =
                value.unwrap_or_else(|text| Err(format!("the function panicked: {text}").into()));
            let value = value.map_err(failed)?;
            let value = HeaderValue::from_str(&value);
            let nonsense =
                "what the function returned is not allowed in HTTP (a line break at its end?)";
            let mut value = value.map_err(|_| failed(nonsense.into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(name.clone(), value);
        }
        Ok(request)
    }

    /// Returns where a refusal redirects to, if it does. Another host or port is sent only those
    /// settings that describe this client and the WebSocket that it asks for: a header of the
    /// program's own may be a secret, whatever its name is.
    pub(crate) fn redirected(
        &self,
        response: &http::Response<bytes::Bytes>,
    ) -> Option<Result<ConnectRequest>> {
        let mut target = match self.target.redirect(redirects_to(response)?) {
            Ok(target) => target,
            Err(error) => return Some(Err(error)),
        };
        let mut headers = self.headers.clone();
        let mut renewed = self.renewed.clone();
        if self.target.may_share_secrets_with(&target) {
            let credentials = target.credentials.take();
            target.credentials = credentials.or_else(|| self.target.credentials.clone());
        } else {
            headers.retain(|(name, _)| {
                [
                    header::ORIGIN,
                    header::SEC_WEBSOCKET_PROTOCOL,
                    header::USER_AGENT,
                ]
                .contains(name)
            });
            renewed.clear();
        }
        Some(Ok(ConnectRequest {
            target,
            headers,
            renewed,
            proxy: self.proxy.clone(),
        }))
    }
}
