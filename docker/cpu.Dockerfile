# The program for CPUs:
#
#   docker build -f docker/cpu.Dockerfile -t asyncdiff .
#   docker run --rm -v "$PWD:/work" asyncdiff generate "red apple, fluent style" -o apple.png
#
# Not built by the project's checks.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
WORKDIR /source
RUN cargo build --release --locked -p asyncdiff-cli

FROM debian:bookworm-slim
COPY --from=build /source/target/release/asyncdiff /usr/local/bin/
# Downloaded models: mount a volume here to keep them.
ENV HF_HOME=/models
WORKDIR /work
ENTRYPOINT ["asyncdiff"]
