//! Mails: sent in the background by SMTP, or printed where a setting says so.
//!
//! Never tells a caller whether a mail arrived, so that nobody learns which addresses have
//! an account; never logs an address or a text otherwise.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::Config;

/// Mails waiting to be sent; more are dropped, and asked for again by whoever misses theirs.
const QUEUE_MAILS_MAX: usize = 256;
/// Pauses before a mail is tried again.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];
const SMTP_TIMEOUT: Duration = Duration::from_secs(10);

/// A setting of mail that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum BadMailSetting {
    #[error("SMTP_URL: {0}")]
    SmtpUrl(lettre::transport::smtp::Error),
    #[error("MAIL_FROM: {0}")]
    From(lettre::address::AddressError),
}

/// One mail, as plain text.
pub(crate) struct Mail {
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) text: String,
}

/// Takes mails.
#[derive(Debug)]
pub(crate) struct Mailer {
    /// `None`: this instance sends no mail.
    queue: Option<mpsc::Sender<Mail>>,
}

enum Way {
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
    Log,
}

impl Mailer {
    /// Starts the background task, if mails have a way out.
    pub(crate) fn start(
        config: &Config,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, BadMailSetting> {
        let settings = &config.mail;
        let way = match &settings.smtp_url {
            _ if settings.mail_to_log => Way::Log,
            Some(url) => {
                let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.reveal())
                    .map_err(BadMailSetting::SmtpUrl)?;
                Way::Smtp(Box::new(server.timeout(Some(SMTP_TIMEOUT)).build()))
            }
            None => return Ok(Self { queue: None }),
        };
        let from = settings.mail_from.parse().map_err(BadMailSetting::From)?;
        let (queue, mails) = mpsc::channel(QUEUE_MAILS_MAX);
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(run(way, from, mails)).await });
        Ok(Self { queue: Some(queue) })
    }

    /// Whether mails have a way out: without one, addresses cannot be verified.
    pub(crate) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Never waits.
    pub(crate) fn send(&self, mail: Mail) {
        if let Some(queue) = &self.queue
            && queue.try_send(mail).is_err()
        {
            tracing::warn!("a mail was dropped: too many wait for the mail server");
        }
    }
}

async fn run(way: Way, from: Mailbox, mut mails: mpsc::Receiver<Mail>) {
    while let Some(mail) = mails.recv().await {
        match &way {
            Way::Log => tracing::info!(
                to = mail.to,
                subject = mail.subject,
                "mail printed, not sent (MAIL_TO_LOG):\n{}",
                mail.text
            ),
            Way::Smtp(server) => send(server, &from, mail).await,
        }
    }
}

async fn send(server: &AsyncSmtpTransport<Tokio1Executor>, from: &Mailbox, mail: Mail) {
    // An address that no mail can be written to was stored by an older, laxer check.
    let Ok(to) = mail.to.parse() else {
        return tracing::warn!("a mail was dropped: its address cannot be written to");
    };
    let message = Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(mail.subject)
        .header(ContentType::TEXT_PLAIN)
        .body(mail.text);
    let Ok(message) = message else {
        return tracing::warn!("a mail was dropped: it cannot be written");
    };
    for pause in RETRY_AFTER.into_iter().map(Some).chain([None]) {
        // An error of lettre names the server's answer, which may name the address.
        match (server.send(message.clone()).await, pause) {
            (Ok(_), _) => return,
            (Err(error), Some(pause)) if !error.is_permanent() => tokio::time::sleep(pause).await,
            (Err(error), _) => {
                return tracing::warn!(
                    permanent = error.is_permanent(),
                    "a mail was not taken by the mail server"
                );
            }
        }
    }
}
