//! TCP passes the suite, with one and with several streams.

mod one_stream {
    use ronde_conformance::{TcpPair, conformance};
    use ronde_tcp::TcpOptions;

    conformance!(TcpPair { streams: 1, options: TcpOptions::default() }.connect());
}

mod three_streams_and_small_blocks {
    use ronde_conformance::{TcpPair, conformance};
    use ronde_tcp::TcpOptions;

    conformance!(
        TcpPair { streams: 3, options: TcpOptions { receive_block: 4096, ..TcpOptions::default() } }
            .connect()
    );
}
