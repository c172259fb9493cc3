# seats serve in a container: see docs/serve.md.
#
#   docker build -t seats .                                          for GPUs
#   docker build --build-arg DEVICE=cpu --build-arg TORCH_INDEX=URL -t seats .
FROM python:3.11-slim

# Where the model runs: cuda or cpu.
ARG DEVICE=cuda
# A package index to take torch and torchvision from. The usual wheels bring CUDA's libraries along,
# several GB that a CPU has no use for; PyTorch's own index of wheels for CPUs has smaller ones.
ARG TORCH_INDEX=
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Triton compiles kernels when they are first used, and asks a C compiler to help.
RUN case "$DEVICE" in \
        cuda) apt-get update \
            && apt-get install -y --no-install-recommends gcc libc6-dev \
            && rm -rf /var/lib/apt/lists/* ;; \
        cpu) ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac

WORKDIR /src
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY pyproject.toml setup.py README.md LICENSE ./
COPY LICENSES LICENSES
COPY docs/licences.md docs/licences.md
COPY seats_cli seats_cli
RUN pip install -c constraints.txt '.[serve]' && rm -rf /src/*

# No rights in the image, and one place to write to: checkpoints.
RUN useradd --create-home --uid 10001 seats && mkdir /models && chown seats /models
USER seats
WORKDIR /home/seats
ENV HF_HOME=/models SEATS_DEVICE=$DEVICE
VOLUME /models
EXPOSE 8000
HEALTHCHECK --start-period=10m --interval=30s --timeout=10s \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/health', timeout=5)"]

# Reachable from outside of the container, so a key is needed: SEATS_API_KEY.
ENTRYPOINT ["seats", "serve", "--host", "0.0.0.0", "--port", "8000"]
