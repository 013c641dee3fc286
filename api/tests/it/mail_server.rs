//! A mail server that keeps what it is given.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

pub(crate) struct MailServer {
    pub(crate) url: String,
    mails: mpsc::UnboundedReceiver<String>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let (keep, mails) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, keep.clone()));
            }
        });
        Self { url, mails }
    }

    /// The next mail, as it came.
    pub(crate) async fn next(&mut self) -> String {
        let mail = tokio::time::timeout(Duration::from_secs(20), self.mails.recv());
        mail.await.expect("a mail comes").expect("the server lives")
    }

    /// The ticket in the next mail: the line of 64 hex digits.
    pub(crate) async fn ticket(&mut self) -> String {
        let mail = self.next().await;
        let is_ticket =
            |line: &&str| line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let ticket = mail.lines().find(is_ticket);
        ticket
            .unwrap_or_else(|| panic!("no ticket in {mail}"))
            .to_owned()
    }

    /// Whether nothing came.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.mails.try_recv().is_err()
    }
}

async fn serve(stream: TcpStream, keep: mpsc::UnboundedSender<String>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test\r\n").await?;
    let mut mail: Option<String> = None;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer: &[u8] = match &mut mail {
            Some(text) if line == ".\r\n" => {
                let _ = keep.send(std::mem::take(text));
                mail = None;
                b"250 kept\r\n"
            }
            Some(text) => {
                text.push_str(&line);
                continue;
            }
            None if line.starts_with("DATA") => {
                mail = Some(String::new());
                b"354 go on\r\n"
            }
            None if line.starts_with("QUIT") => b"221 bye\r\n",
            None => b"250 ok\r\n",
        };
        stream.write_all(answer).await?;
    }
}
