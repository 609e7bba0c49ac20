# Rscript glmnet.R DIRECTORY TYPE THRESH CV THREADS FULL_PATH: fit the paths of a directory and write them into it.
suppressMessages(library(glmnet))
arguments <- commandArgs(TRUE)
directory <- arguments[1]
cv <- arguments[4] == "TRUE"
threads <- as.integer(arguments[5])
if (arguments[6] == "TRUE") glmnet.control(fdev = 0, devmax = 1)
if (threads > 1) suppressMessages(doMC::registerDoMC(threads))

file <- function(name) file.path(directory, name)
size <- scan(file("size"), quiet = TRUE)  # rows, columns, queries, penalties
numbers <- function(name, columns) matrix(readBin(file(name), "double", file.size(file(name)) / 8), ncol = columns)
x <- numbers("x", size[2])
y <- numbers("y", size[3])
penalties <- numbers("penalties", size[3])
options <- list(standardize = FALSE, intercept = FALSE, type.gaussian = arguments[2], thresh = as.numeric(arguments[3]),
                maxit = 1e8)
if (cv) options <- c(options, list(foldid = readBin(file("fold"), "integer", size[1]) + 1L, parallel = threads > 1))

fit <- function(k) {
  do.call(if (cv) cv.glmnet else glmnet, c(list(x = x, y = y[, k], lambda = penalties[, k]), options))
}

invisible(glmnet(x[, 1:2], y[, 1], lambda = penalties[1:2, 1], intercept = FALSE))
seconds <- system.time(fits <- lapply(seq_len(size[3]), fit))[["elapsed"]]
status <- readLines("/proc/self/status")
peak <- as.numeric(gsub("[^0-9]", "", status[grepl("^VmHWM", status)])) / 1024
writeBin(c(seconds, peak), file("figures"))
writeLines(as.character(packageVersion("glmnet")), file("version"))
for (k in seq_along(fits)) {
  beta <- if (cv) fits[[k]]$glmnet.fit$beta else fits[[k]]$beta
  writeBin(beta@x, file(paste0("data", k)))
  writeBin(beta@i, file(paste0("indices", k)))
  writeBin(beta@p, file(paste0("indptr", k)))
  if (cv) writeBin(fits[[k]]$cvm, file(paste0("cvm", k)))
}
