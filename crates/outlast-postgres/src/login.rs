//! Beginning a session: the startup message, the proof of who we are, and what the server then says about itself.

use std::collections::HashMap;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::address::{Address, Proof};
use crate::connection::ConnectError;
use crate::fault::{Fault, Meaning};
use crate::wire::Wire;

/// Most rounds of hashing that a server may ask for. The default is 4,096.
const ROUNDS_MAX: u32 = 1_000_000;

/// What a server says about itself (`server_version`, `in_hot_standby`, ...).
pub(crate) type Parameters = HashMap<String, String>;

/// What is known of a session that has begun.
#[derive(Default)]
pub(crate) struct Session {
    /// What the server says about itself.
    pub(crate) parameters: Parameters,
    /// Which of the server's processes is said to serve it.
    pub(crate) process_id: Option<i32>,
}

/// Begins a session. `end_point` binds the login to the TLS connection that it goes through.
pub(crate) async fn begin(
    wire: &mut Wire,
    address: &Address,
    end_point: Option<Vec<u8>>,
) -> Result<Session, ConnectError> {
    let mut startup = BytesMut::new();
    // Only what a pooler lets through as well.
    let settings = [
        ("user", address.user.as_str()),
        ("database", address.database.as_str()),
        ("application_name", address.application_name.as_str()),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("standard_conforming_strings", "on"),
    ];
    frontend::startup_message(settings, &mut startup).map_err(unavailable)?;
    wire.send(&startup).await.map_err(unavailable)?;
    let mut login = Login { wire, address, end_point };
    login.prove().await?;
    login.hear().await
}

struct Login<'a> {
    wire: &'a mut Wire,
    address: &'a Address,
    end_point: Option<Vec<u8>>,
}

impl Login<'_> {
    /// The next message that is not a notice. An error of the server ends the login.
    async fn next(&mut self) -> Result<Message, ConnectError> {
        loop {
            match self.wire.receive().await.map_err(unavailable)? {
                Message::NoticeResponse(_) => {}
                Message::ErrorResponse(body) => return Err(self.turned_away(&Fault::read(body.fields()))),
                message => return Ok(message),
            }
        }
    }

    fn turned_away(&self, fault: &Fault) -> ConnectError {
        let user = &self.address.user;
        let reason = &fault.message;
        match fault.meaning() {
            Meaning::Login if fault.code == "3D000" => ConnectError::Refused(format!(
                "{reason}. Let somebody with the right run: CREATE DATABASE \"{}\" OWNER \"{user}\"",
                self.address.database
            )),
            Meaning::Login | Meaning::Refused { .. } => {
                ConnectError::Refused(format!("the server refused the user \"{user}\": {reason}"))
            }
            _ => ConnectError::Unavailable(reason.clone()),
        }
    }

    fn password(&self, proof: Proof, name: &str) -> Result<&str, ConnectError> {
        if !self.address.proofs.contains(&proof) {
            return Err(ConnectError::Refused(format!(
                "the server asks for the password by {name}, which is not sent over this connection: let it \
                 use scram-sha-256, or add sslmode=verify-full or require_auth={name} to the URL"
            )));
        }
        self.address.password.as_deref().ok_or_else(|| {
            ConnectError::Refused(format!("the server asks for a password of \"{}\"", self.address.user))
        })
    }

    async fn prove(&mut self) -> Result<(), ConnectError> {
        let mut answer = BytesMut::new();
        match self.next().await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationSasl(body) => return self.scram(&body).await,
            Message::AuthenticationMd5Password(body) => {
                let password = self.password(Proof::Md5, "md5")?;
                let hash = md5_hash(self.address.user.as_bytes(), password.as_bytes(), body.salt());
                frontend::password_message(hash.as_bytes(), &mut answer).map_err(unavailable)?;
            }
            Message::AuthenticationCleartextPassword => {
                let password = self.password(Proof::Password, "password")?;
                frontend::password_message(password.as_bytes(), &mut answer).map_err(unavailable)?;
            }
            _ => return Err(unsupported("another proof than a password")),
        }
        self.wire.send(&answer).await.map_err(unavailable)?;
        self.accepted().await
    }

    async fn accepted(&mut self) -> Result<(), ConnectError> {
        match self.next().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(unsupported("more than one proof")),
        }
    }

    async fn scram(&mut self, offer: &AuthenticationSaslBody) -> Result<(), ConnectError> {
        let offered: Vec<&str> = offer.mechanisms().collect().map_err(unavailable)?;
        let (mechanism, binding) = match self.end_point.take() {
            Some(hash) if offered.contains(&SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
            }
            // Tells the server that we could have: so nobody between us can have hidden its offer.
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offered.contains(&mechanism) {
            return Err(unsupported("none of scram-sha-256, md5 and password"));
        }
        let password = self.password(Proof::Scram, "scram-sha-256")?;
        let mut scram = ScramSha256::new(password.as_bytes(), binding);
        let mut bytes = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut bytes).map_err(unavailable)?;
        self.wire.send(&bytes).await.map_err(unavailable)?;
        let Message::AuthenticationSaslContinue(body) = self.next().await? else {
            return Err(unsupported("a login that is not SCRAM"));
        };
        if rounds_of(body.data()).is_none_or(|rounds| rounds > ROUNDS_MAX) {
            return Err(unsupported("more rounds of hashing than is sensible"));
        }
        scram.update(body.data()).map_err(|error| refused(&error))?;
        bytes.clear();
        frontend::sasl_response(scram.message(), &mut bytes).map_err(unavailable)?;
        self.wire.send(&bytes).await.map_err(unavailable)?;
        let Message::AuthenticationSaslFinal(body) = self.next().await? else {
            return Err(unsupported("a login that is not SCRAM"));
        };
        // The server proves that it knows the password, too.
        scram.finish(body.data()).map_err(|error| refused(&error))?;
        self.accepted().await
    }

    /// What the server says about itself, until it is ready.
    async fn hear(&mut self) -> Result<Session, ConnectError> {
        let mut session = Session::default();
        loop {
            match self.next().await? {
                Message::ParameterStatus(body) => {
                    let (name, value) =
                        (body.name().map_err(unavailable)?, body.value().map_err(unavailable)?);
                    session.parameters.insert(name.to_owned(), value.to_owned());
                }
                Message::BackendKeyData(body) => session.process_id = Some(body.process_id()),
                Message::ReadyForQuery(_) => return Ok(session),
                _ => return Err(unsupported("something that is no part of a login")),
            }
        }
    }
}

/// The member `i` of the server's first message.
fn rounds_of(message: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(message).ok()?;
    text.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

fn unavailable(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::Unavailable(error.to_string())
}

fn refused(error: &std::io::Error) -> ConnectError {
    ConnectError::Refused(format!("signing in failed: {error}"))
}

fn unsupported(what: &str) -> ConnectError {
    ConnectError::Refused(format!("signing in failed: the server asks for {what}"))
}
