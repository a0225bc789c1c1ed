// The same training as examples/c/train.c, through ronde.hpp.
//
//   c++ -std=c++17 -O2 train.cpp $(pkg-config --cflags --libs ronde) -o train
//   ronde run -n 4 -- ./train cli/data/digits.bin
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <ronde.hpp>
#include <vector>

namespace {

constexpr int pixels = 64, classes = 10, row = pixels + 1, epochs = 60;
constexpr std::size_t batch_size = 96;

struct digit {
    std::array<float, pixels> values;
    int label;
};

std::vector<digit> load(const char *path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(std::string("cannot read ") + path);
    std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    std::vector<digit> digits(bytes.size() / row);
    for (std::size_t i = 0; i < digits.size(); ++i) {
        for (int p = 0; p < pixels; ++p) digits[i].values[p] = bytes[i * row + p] / 16.0f;
        digits[i].label = bytes[i * row + pixels];
    }
    // The same order on every rank.
    std::minstd_rand random(1);
    for (std::size_t i = digits.size(); i > 1; --i) std::swap(digits[i - 1], digits[random() % i]);
    return digits;
}

using model = std::vector<float>;

std::array<float, classes> scores(const model &m, const digit &d) {
    std::array<float, classes> out;
    for (int c = 0; c < classes; ++c) {
        out[c] = m[c * row + pixels];
        for (int p = 0; p < pixels; ++p) out[c] += m[c * row + p] * d.values[p];
    }
    return out;
}

void add_gradient(const model &m, const digit &d, model &gradient) {
    auto s = scores(m, d);
    const float largest = *std::max_element(s.begin(), s.end());
    float total = 0;
    for (float &x : s) total += x = std::exp(x - largest);
    for (int c = 0; c < classes; ++c) {
        const float error = s[c] / total - (c == d.label ? 1.0f : 0.0f);
        for (int p = 0; p < pixels; ++p) gradient[c * row + p] += error * d.values[p];
        gradient[c * row + pixels] += error;
    }
}

int train(const char *path) {
    const auto digits = load(path);
    const std::size_t training = digits.size() - digits.size() / 5;

    auto group = ronde::group::join();
    const std::size_t rank = group.rank(), ranks = group.size();

    model m(classes * row), velocity(m.size()), gradient(m.size());
    for (int epoch = 0; epoch < epochs; ++epoch) {
        for (std::size_t at = 0; at < training; at += batch_size) {
            const std::size_t batch = std::min(batch_size, training - at);
            std::fill(gradient.begin(), gradient.end(), 0.0f);
            for (std::size_t i = batch * rank / ranks; i < batch * (rank + 1) / ranks; ++i)
                add_gradient(m, digits[at + i], gradient);
            group.all_reduce(gradient);
            for (std::size_t i = 0; i < m.size(); ++i) {
                velocity[i] = 0.9f * velocity[i] - 0.3f / batch * gradient[i];
                m[i] += velocity[i];
            }
        }
    }

    const auto right = std::count_if(digits.begin() + training, digits.end(), [&](const digit &d) {
        const auto s = scores(m, d);
        return std::max_element(s.begin(), s.end()) - s.begin() == d.label;
    });
    const double accuracy = double(right) / double(digits.size() - training);
    // Broadcast one model and compare: all must have the same bits.
    model first = m;
    group.broadcast(first, 0);
    std::array<int, 1> equal{first == m};
    group.all_reduce(equal, ronde::min);
    if (rank == 0)
        std::printf("%zu ranks, accuracy %.3f, models %s\n", ranks, accuracy, equal[0] ? "identical" : "DIFFER");
    group.close();
    return equal[0] && accuracy > 0.9 ? 0 : 1;
}

} // namespace

int main(int argc, char **argv) {
    try {
        return train(argc > 1 ? argv[1] : "cli/data/digits.bin");
    } catch (const std::exception &problem) {
        std::cerr << problem.what() << '\n';
        return 1;
    }
}
