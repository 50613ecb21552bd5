# The program for NVIDIA GPUs; the driver is the host's:
#
#   docker build -f docker/cuda.Dockerfile -t asyncdiff:cuda .
#   docker run --rm --gpus all -v "$PWD:/work" asyncdiff:cuda generate "a lighthouse" --model MODEL --devices cuda:0 -o lighthouse.png
#
# Not built by the project's checks.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-pip && rm -rf /var/lib/apt/lists/*
# Before the sources, so that a change of these does not fetch it again.
COPY scripts/install-llvm.sh /tmp/
RUN /tmp/install-llvm.sh
COPY . /source
WORKDIR /source
RUN cargo build --release --locked -p asyncdiff-cli --features cuda

FROM debian:bookworm-slim
COPY --from=build /source/target/release/asyncdiff /usr/local/bin/
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Downloaded models: mount a volume here to keep them.
ENV HF_HOME=/models
WORKDIR /work
ENTRYPOINT ["asyncdiff"]
