//! What a client asks for, and which way it goes there.

use std::sync::Arc;

use http::Request;
use http::header::{self, HeaderName, HeaderValue};

use super::credentials::Credentials;
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
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers whose value is computed for each attempt to connect.
    pub(crate) renewed: Vec<(HeaderName, HeaderSource)>,
    pub(crate) proxy: Option<Proxy>,
    /// Whether the environment names the proxy, if `proxy` is `None`.
    pub(crate) proxy_from_env: bool,
}

/// The program's function that computes a header's value.
pub(crate) type HeaderSource =
    Arc<Guarded<Box<dyn Fn() -> Result<String, SourceError> + Send + Sync>>>;
pub(crate) type SourceError = Box<dyn std::error::Error + Send + Sync>;

impl ConnectRequest {
    /// Returns the request with these credentials, unless they are `None`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if credentials are given in more than one way;
    /// [`Error::InvalidUrl`] for a URL that cannot be written in HTTP.
    pub(crate) fn checked(mut self, basic_auth: Option<Credentials>) -> Result<Self> {
        let names = self.headers.iter().map(|(name, _)| name);
        let mut names = names.chain(self.renewed.iter().map(|(name, _)| name));
        let ways = [
            self.target.credentials.is_some(),
            basic_auth.is_some(),
            names.any(|name| name == header::AUTHORIZATION),
        ];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Err(Error::invalid_option(
                "basic_auth",
                "there may be one of a user in the URL, basic_auth and an Authorization header",
            ));
        }
        self.target.credentials = self.target.credentials.or(basic_auth);
        self.request()?;
        Ok(self)
    }

    /// Returns the proxy to connect through, if there is one.
    pub(crate) fn proxy(&self, endpoint: &Endpoint) -> Result<Option<Proxy>> {
        match &self.proxy {
            Some(proxy) => Ok(Some(proxy.clone())),
            None if !self.proxy_from_env => Ok(None),
            None => {
                let Endpoint { host, port, .. } = endpoint;
                let encrypted = self.target.encrypted;
                Proxy::from_env(encrypted, host, *port, |name| std::env::var(name).ok())
            }
        }
    }

    /// Returns the request, without the headers that are computed for each attempt.
    pub(crate) fn request(&self) -> Result<Request<()>> {
        let request = client::request(&self.target.url);
        let invalid = |reason: String| Error::invalid_url(&self.target.name, reason);
        let mut request = request.map_err(invalid)?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if let Some(credentials) = &self.target.credentials {
            let value = credentials.basic().and_then(|basic| basic.parse().ok());
            let value = value.ok_or_else(|| {
                let reason = "the user contains a colon, which HTTP cannot send";
                Error::invalid_option("basic_auth", reason)
            })?;
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
        let shares_secrets = self.target.may_share_secrets_with(&target);
        let mut next = self.clone();
        if shares_secrets {
            target.credentials = target.credentials.or(next.target.credentials);
        } else {
            next.headers.retain(|(name, _)| {
                [
                    header::ORIGIN,
                    header::SEC_WEBSOCKET_EXTENSIONS,
                    header::SEC_WEBSOCKET_PROTOCOL,
                    header::USER_AGENT,
                ]
                .contains(name)
            });
            next.renewed.clear();
        }
        next.target = target;
        Some(Ok(next))
    }
}
