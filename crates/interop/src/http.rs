//! Just enough HTTP to read a page of a process on loopback.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long a page may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest page, in bytes; Charon's metrics have about 200 KiB.
const MAX_PAGE: u64 = 8 << 20;

/// Why a page could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Nobody answered.
    #[error("http://{address}{path} did not answer")]
    Io {
        /// The server.
        address: SocketAddr,
        /// The page.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer is not a page.
    #[error("http://{address}{path} answered '{status}'")]
    Status {
        /// The server.
        address: SocketAddr,
        /// The page.
        path: String,
        /// The first line of the answer.
        status: String,
    },
}

/// Reads a page.
pub async fn get(address: SocketAddr, path: &str) -> Result<String, HttpError> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // Version 1.0: the answer is not chunked and ends with the connection.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_PAGE).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| HttpError::Io {
            address,
            path: path.to_owned(),
            source,
        })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return Ok(body.to_owned());
    }
    Err(HttpError::Status {
        address,
        path: path.to_owned(),
        status: status.to_owned(),
    })
}
